-- failure: why the session's last turn failed, or is tried again; null when it did not. resume_at: not before then.
ALTER TABLE sessions
    ADD COLUMN failure   jsonb,
    ADD COLUMN resume_at timestamptz;
CREATE INDEX sessions_failed ON sessions (workspace_id, created_at DESC) WHERE failure IS NOT NULL;
CREATE INDEX sessions_to_resume ON sessions (resume_at) WHERE resume_wanted;

-- What became of each attempt at a turn. progress_seq: the newest event of the agent's that the turn had when it began.
-- ending: null while it runs; 'crashed' is found out by the next attempt.
CREATE TABLE turn_attempts (
    turn_id      text NOT NULL REFERENCES turns ON DELETE CASCADE,
    attempt      int NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    worker_id    text NOT NULL,
    host         text,
    pid          int,
    progress_seq bigint NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at     timestamptz,
    ending       text CHECK (ending IN ('crashed', 'failed', 'stopped')),
    error        text,
    PRIMARY KEY (turn_id, attempt)
);
ALTER TABLE turn_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE turn_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY one_workspace ON turn_attempts USING
    (current_setting('bulkhead.workspace_id', true) IN (workspace_id, '*'));
GRANT SELECT, INSERT, UPDATE, DELETE ON turn_attempts TO bulkhead_app;
