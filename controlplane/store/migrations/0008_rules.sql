-- Rules on the arguments of tool calls, and what they add to a call that waits for a person.

-- A rule holds in the workspace, for an agent, or in a session; session_id and agent_id say which. The lowest position
-- comes first. expires_after_seconds and on_expiry: of the calls that an ask rule parks.
CREATE TABLE rules (
    id                    text PRIMARY KEY,
    workspace_id          text NOT NULL REFERENCES workspaces,
    agent_id              text REFERENCES agents,
    session_id            text REFERENCES sessions ON DELETE CASCADE,
    tool                  text NOT NULL,
    arguments             jsonb NOT NULL,
    verdict               text NOT NULL CHECK (verdict IN ('allow', 'ask', 'deny')),
    reason                text,
    position              int NOT NULL,
    expires_after_seconds int,
    on_expiry             text CHECK (on_expiry IN ('allow', 'deny')),
    expires_at            timestamptz,
    created_by            text NOT NULL,
    updated_by            text NOT NULL,
    created_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (agent_id IS NULL OR session_id IS NULL)
);
CREATE INDEX rules_by_scope ON rules (workspace_id, session_id, agent_id, position);

-- rule_id and verdict_reason: the rule that gave the verdict, and what it said. expires_at: then on_expiry is decided.
ALTER TABLE tool_calls
    ADD COLUMN rule_id        text,
    ADD COLUMN verdict_reason text,
    ADD COLUMN edited_input   jsonb,
    ADD COLUMN expires_at     timestamptz,
    ADD COLUMN on_expiry      text CHECK (on_expiry IN ('allow', 'deny'));
CREATE INDEX tool_calls_expiring ON tool_calls (expires_at)
    WHERE state = 'intended' AND verdict = 'ask' AND decision IS NULL;

-- Whether a key may decide about calls that wait, and make rules that decide.
ALTER TABLE api_keys ADD COLUMN may_decide boolean NOT NULL DEFAULT true;

DO $$
BEGIN
    GRANT SELECT, INSERT, UPDATE, DELETE ON rules TO bulkhead_app;
    ALTER TABLE rules ENABLE ROW LEVEL SECURITY;
    ALTER TABLE rules FORCE ROW LEVEL SECURITY;
    CREATE POLICY one_workspace ON rules
        USING (current_setting('bulkhead.workspace_id', true) IN (workspace_id, '*'));
END $$;
