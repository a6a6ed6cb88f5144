-- What is kept of a session's sandbox when it ends, and sandboxes that are up before anybody asks for one.

-- retiring: no command of it runs any more, and its folders are being kept. first_tool_use_id: the call that is told
-- what became of the sandbox before this one.
ALTER TABLE sandboxes DROP CONSTRAINT sandboxes_status_check;
ALTER TABLE sandboxes ADD CONSTRAINT sandboxes_status_check
    CHECK (status IN ('creating', 'ready', 'retiring', 'ended'));
ALTER TABLE sandboxes ADD COLUMN first_tool_use_id text;

-- A session has one whole checkpoint, its newest; one that is not complete belongs to a worker that writes it, or died.
CREATE TABLE checkpoints (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    session_id   text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    sandbox_id   text NOT NULL,
    complete     boolean NOT NULL DEFAULT false,
    folders      jsonb NOT NULL DEFAULT '[]',
    taken_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX checkpoints_by_session ON checkpoints (session_id);
CREATE UNIQUE INDEX checkpoints_complete ON checkpoints (session_id) WHERE complete;

CREATE TABLE checkpoint_chunks (
    checkpoint_id text NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    folder        text NOT NULL,
    ordinal       int NOT NULL,
    workspace_id  text NOT NULL REFERENCES workspaces,
    content       bytea NOT NULL,
    PRIMARY KEY (checkpoint_id, folder, ordinal)
);
ALTER TABLE checkpoint_chunks ALTER COLUMN content SET STORAGE EXTERNAL;

-- Belongs to the installation until a session claims it: then the row is gone and one in sandboxes has its id.
CREATE TABLE warm_sandboxes (
    id         text PRIMARY KEY,
    host       text NOT NULL,
    provider   text NOT NULL,
    kind       text NOT NULL,
    ready      boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX warm_sandboxes_to_claim ON warm_sandboxes (host, kind, created_at);

DO $$
DECLARE
    name text;
BEGIN
    GRANT SELECT, INSERT, UPDATE, DELETE ON checkpoints, checkpoint_chunks, warm_sandboxes TO bulkhead_app;
    FOREACH name IN ARRAY ARRAY['checkpoints', 'checkpoint_chunks']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
    END LOOP;
END $$;
