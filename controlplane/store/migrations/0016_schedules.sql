-- Deployments: what runs an agent on time or when told to, and what came of each run.

-- version: grows with each change that a schedule of Temporal's must hear of; projected_version: what it has heard of;
-- renew_at: when it must be given further fire times. next_at: the first fire time that no run is recorded of yet.
-- created_by: the key whose rights its runs have. session_id: of the session that goes on from run to run.
-- environment_id has no foreign key: a deployment does not keep an environment from being deleted, its runs say so.
CREATE TABLE deployments (
    id                text PRIMARY KEY,
    workspace_id      text NOT NULL REFERENCES workspaces,
    name              text NOT NULL,
    description       text,
    metadata          jsonb NOT NULL DEFAULT '{}',
    agent_id          text NOT NULL REFERENCES agents,
    agent_version     int NOT NULL,
    environment_id    text NOT NULL,
    initial_events    jsonb NOT NULL,
    resources         jsonb NOT NULL DEFAULT '[]',
    vault_ids         jsonb NOT NULL DEFAULT '[]',
    budget            jsonb,
    budget_ids        jsonb NOT NULL DEFAULT '[]',
    schedule          jsonb,
    session           text NOT NULL CHECK (session IN ('new', 'continue')),
    deadline_seconds  int,
    pause_on_failure  int,
    created_by        text NOT NULL,
    session_id        text,
    paused_reason     jsonb,
    failures          int NOT NULL DEFAULT 0,
    runs_started      int NOT NULL DEFAULT 0,
    next_at           timestamptz,
    last_run_at       timestamptz,
    version           int NOT NULL DEFAULT 1,
    projected_version int NOT NULL DEFAULT 0,
    renew_at          timestamptz,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    archived_at       timestamptz
);
CREATE INDEX deployments_by_created ON deployments (workspace_id, created_at DESC, id DESC);
CREATE INDEX deployments_to_project ON deployments (id) WHERE projected_version < version;
CREATE INDEX deployments_to_renew ON deployments (renew_at) WHERE renew_at IS NOT NULL;
CREATE INDEX deployments_due ON deployments (next_at) WHERE next_at IS NOT NULL;

-- wrapped_secret: what deliveries are signed with, sealed by a master key like a vault's data key.
CREATE TABLE deployment_triggers (
    deployment_id  text PRIMARY KEY REFERENCES deployments ON DELETE CASCADE,
    workspace_id   text NOT NULL REFERENCES workspaces,
    type           text NOT NULL CHECK (type IN ('github', 'slack', 'standard_webhooks')),
    template       text NOT NULL,
    master_key_id  text NOT NULL,
    wrapped_secret bytea NOT NULL
);
CREATE INDEX deployment_triggers_by_master_key ON deployment_triggers (master_key_id);

-- The id follows from the deployment and the fire time, or the delivery: the same firing cannot have two rows.
-- inputs: the events that its session got for it. base_cost_usd: what the session had cost before. message: what a trigger's template made of its payload.
-- signature: SHA-256 of what a delivery was signed with: under whatever id it comes again, it is the same.
CREATE TABLE deployment_runs (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces,
    deployment_id text NOT NULL REFERENCES deployments,
    kind          text NOT NULL CHECK (kind IN ('schedule', 'backfill', 'manual', 'trigger')),
    scheduled_at  timestamptz,
    agent_id      text NOT NULL,
    agent_version int NOT NULL,
    state         text NOT NULL CHECK (state IN ('waiting', 'running', 'ended')),
    outcome       text CHECK (outcome IN ('succeeded', 'failed', 'deadline_exceeded', 'cancelled', 'skipped', 'missed')),
    error         jsonb,
    detail        text,
    session_id    text,
    inputs        jsonb NOT NULL DEFAULT '[]',
    base_cost_usd numeric NOT NULL DEFAULT 0,
    cost_usd      numeric,
    delivery_id   text,
    signature     bytea,
    message       text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at    timestamptz,
    ended_at      timestamptz,
    CHECK ((state = 'ended') = (outcome IS NOT NULL)),
    UNIQUE (deployment_id, signature)
);
CREATE INDEX deployment_runs_by_created ON deployment_runs (workspace_id, created_at DESC, id DESC);
CREATE INDEX deployment_runs_by_deployment ON deployment_runs (deployment_id, created_at DESC, id DESC);
CREATE INDEX deployment_runs_open ON deployment_runs (deployment_id, state) WHERE state <> 'ended';
CREATE UNIQUE INDEX deployment_runs_by_time ON deployment_runs (deployment_id, scheduled_at)
    WHERE scheduled_at IS NOT NULL;

ALTER TABLE sessions ADD COLUMN deployment_id text;
CREATE INDEX sessions_by_deployment ON sessions (deployment_id, created_at DESC) WHERE deployment_id IS NOT NULL;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['deployments', 'deployment_triggers', 'deployment_runs']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bulkhead_app', name);
    END LOOP;
END $$;
