-- What model requests cost. Money is US dollars, exact.
-- budget_ids: the named budgets that a session draws on, beside those of its agent.
ALTER TABLE sessions
    ADD COLUMN budget_ids jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN cost_usd   numeric NOT NULL DEFAULT 0,
    ADD COLUMN tokens     bigint NOT NULL DEFAULT 0;

-- Prices that an operator sets; model is a glob pattern, price as in controlplane/prices.py.
CREATE TABLE model_prices (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    model        text NOT NULL,
    price        jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (workspace_id, model)
);

-- agent_id: drawn on by all sessions of that agent; otherwise by those that name it.
CREATE TABLE budgets (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    name         text NOT NULL,
    agent_id     text REFERENCES agents,
    period       text NOT NULL CHECK (period IN ('total', 'day', 'month')),
    max_cost_usd numeric,
    max_tokens   bigint,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    archived_at  timestamptz,
    CHECK (max_cost_usd IS NOT NULL OR max_tokens IS NOT NULL)
);
CREATE INDEX budgets_by_agent ON budgets (agent_id) WHERE archived_at IS NULL;

-- reserved_*: of the requests that run now.
CREATE TABLE budget_spending (
    budget_id       text NOT NULL REFERENCES budgets ON DELETE CASCADE,
    period_start    timestamptz NOT NULL,
    workspace_id    text NOT NULL REFERENCES workspaces,
    cost_usd        numeric NOT NULL DEFAULT 0,
    tokens          bigint NOT NULL DEFAULT 0,
    reserved_usd    numeric NOT NULL DEFAULT 0,
    reserved_tokens bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (budget_id, period_start)
);

-- The ledger. id is the span.model_request_start event's. state: 'running' has a reservation, 'metered' a cost that the
-- provider's count of tokens gave, 'lost' the reservation for a cost (nobody knows), 'free' none: it was not answered.
-- spending: which rows of budget_spending the reservation is in. price and cost_usd: null where there is no price.
CREATE TABLE model_requests (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces,
    session_id      text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    turn_id         text NOT NULL,
    model           text NOT NULL,
    provider        text NOT NULL,
    state           text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'metered', 'lost', 'free')),
    price           jsonb,
    reserved_usd    numeric NOT NULL,
    reserved_tokens bigint NOT NULL,
    spending        jsonb NOT NULL,
    cost_usd        numeric,
    tokens          bigint,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at        timestamptz
);
CREATE INDEX model_requests_running ON model_requests (session_id) WHERE state = 'running';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['model_prices', 'budgets', 'budget_spending', 'model_requests']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bulkhead_app', name);
    END LOOP;
END $$;
