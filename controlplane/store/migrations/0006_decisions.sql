-- Tool calls that wait: for a person (verdict ask) or for the result of the client that runs them (verdict client).
-- decision: taken once, while the call is intended; a turn acts on it.
ALTER TABLE tool_calls DROP CONSTRAINT tool_calls_verdict_check;
ALTER TABLE tool_calls ADD CONSTRAINT tool_calls_verdict_check CHECK (verdict IN ('allow', 'ask', 'client', 'deny'));
ALTER TABLE tool_calls
    ADD COLUMN decision     text CHECK (decision IN ('allow', 'deny', 'result')),
    ADD COLUMN deny_message text,
    ADD COLUMN decided_by   text,
    ADD COLUMN decided_at   timestamptz;
CREATE INDEX tool_calls_undecided ON tool_calls (workspace_id, intended_at)
    WHERE state = 'intended' AND verdict IN ('ask', 'client') AND decision IS NULL;
