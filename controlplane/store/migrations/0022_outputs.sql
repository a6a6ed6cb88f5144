-- What lies in /mnt/session/outputs when a turn ends is kept as files of the session. size_bytes, changed_at: what was at
-- a path when it was last looked at; what still is that is not read again. file_id null: left_out says why it was not kept,
-- 'later' that the next turn's end has room for it. told_turn_id: the turn whose end said so; null: none has, since it was
-- kept after the patience of the one that looked.
CREATE TABLE session_outputs (
    session_id   text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    workspace_id text NOT NULL REFERENCES workspaces,
    path         text NOT NULL,
    size_bytes   bigint NOT NULL,
    changed_at   timestamptz,
    file_id      text,
    left_out     text CHECK (left_out IN ('later', 'too_large', 'unreadable', 'too_many_entries')),
    told_turn_id text,
    PRIMARY KEY (session_id, path),
    CHECK ((file_id IS NULL) = (left_out IS NOT NULL))
);
CREATE INDEX session_outputs_by_turn ON session_outputs (session_id, told_turn_id);
CREATE INDEX files_by_session ON files (scope_session_id) WHERE scope_session_id IS NOT NULL;

-- Up to when what commands have left there is kept.
ALTER TABLE sessions ADD COLUMN outputs_at timestamptz;

ALTER TABLE session_outputs ENABLE ROW LEVEL SECURITY;
ALTER TABLE session_outputs FORCE ROW LEVEL SECURITY;
CREATE POLICY one_workspace ON session_outputs USING
    (current_setting('bulkhead.workspace_id', true) IN (workspace_id, '*'));
GRANT SELECT, INSERT, UPDATE, DELETE ON session_outputs TO bulkhead_app;
