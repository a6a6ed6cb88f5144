-- The first schema. Every table carries workspace_id; row-level security (at the end) is the second fence
-- behind the WHERE clauses: without bulkhead.workspace_id set in the transaction, no row is visible.

CREATE TABLE workspaces (
    workspace_id text PRIMARY KEY,
    name         text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    name         text NOT NULL,
    prefix       text NOT NULL,
    key_hash     bytea NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at   timestamptz
);

CREATE TABLE idempotency_keys (
    workspace_id text NOT NULL REFERENCES workspaces,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    status_code  int,
    response     json,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE agents (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    version      int NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    archived_at  timestamptz
);
CREATE INDEX agents_by_created ON agents (workspace_id, created_at DESC, id DESC);

CREATE TABLE agent_versions (
    agent_id     text NOT NULL REFERENCES agents,
    version      int NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    definition   jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, version)
);

CREATE TABLE environments (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    name         text NOT NULL,
    description  text,
    metadata     jsonb NOT NULL DEFAULT '{}',
    config       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    archived_at  timestamptz
);
CREATE INDEX environments_by_created ON environments (workspace_id, created_at DESC, id DESC);

CREATE TABLE files (
    id               text PRIMARY KEY,
    workspace_id     text NOT NULL REFERENCES workspaces,
    filename         text NOT NULL,
    mime_type        text NOT NULL,
    size_bytes       bigint NOT NULL,
    sha256           bytea NOT NULL,
    scope_session_id text,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX files_by_created ON files (workspace_id, created_at DESC, id DESC);

CREATE TABLE file_chunks (
    file_id      text NOT NULL REFERENCES files ON DELETE CASCADE,
    ordinal      int NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    content      bytea NOT NULL,
    PRIMARY KEY (file_id, ordinal)
);
ALTER TABLE file_chunks ALTER COLUMN content SET STORAGE EXTERNAL;

-- status: what the wire format shows. last_seq: the newest event's seq; its row lock orders the session's events.
CREATE TABLE sessions (
    id             text PRIMARY KEY,
    workspace_id   text NOT NULL REFERENCES workspaces,
    agent_id       text NOT NULL REFERENCES agents,
    agent_version  int NOT NULL,
    agent          jsonb NOT NULL,
    environment_id text NOT NULL REFERENCES environments,
    title          text,
    metadata       jsonb NOT NULL DEFAULT '{}',
    vault_ids      jsonb NOT NULL DEFAULT '[]',
    budget         jsonb,
    resume_wanted  boolean NOT NULL DEFAULT false,
    status         text NOT NULL DEFAULT 'idle'
                   CHECK (status IN ('idle', 'running', 'rescheduling', 'terminated')),
    stop_reason    jsonb,
    last_seq       bigint NOT NULL DEFAULT 0,
    usage          jsonb NOT NULL DEFAULT '{}',
    active_ms      bigint NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    archived_at    timestamptz
);
CREATE INDEX sessions_by_created ON sessions (workspace_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_agent ON sessions (workspace_id, agent_id, created_at DESC);

-- What a follower of a deleted session still has to tell its client: the last event, which went with the session.
CREATE TABLE deleted_sessions (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    event_id     text NOT NULL,
    seq          bigint NOT NULL,
    deleted_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE session_resources (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    session_id   text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    type         text NOT NULL,
    config       jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX session_resources_by_session ON session_resources (session_id, created_at, id);
CREATE INDEX session_resources_by_file ON session_resources ((config ->> 'file_id')) WHERE type = 'file';

-- payload: the wire event without id, type and processed_at. internal: what the wire does not show
-- (a thinking block's text and signature, the model request an answer belongs to).
-- position: where the event stands in the conversation: its seq, but for an input the point at which a turn took it.
-- processed_at: null while an input waits in the session's queue, which is these rows in the order of seq.
CREATE TABLE events (
    session_id   text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    seq          bigint NOT NULL,
    id           text NOT NULL UNIQUE,
    workspace_id text NOT NULL REFERENCES workspaces,
    type         text NOT NULL,
    payload      jsonb NOT NULL,
    internal     jsonb NOT NULL DEFAULT '{}',
    turn_id      text,
    position     bigint NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    processed_at timestamptz,
    PRIMARY KEY (session_id, seq)
);
CREATE INDEX events_waiting ON events (session_id, seq) WHERE processed_at IS NULL;
CREATE INDEX events_by_type ON events (session_id, type, seq);

-- One row per worker process alive; it holds the advisory lock (kind, lock_key) for as long as it lives.
CREATE TABLE workers (
    id         text PRIMARY KEY,
    kind       text NOT NULL CHECK (kind IN ('brain', 'sandbox')),
    lock_key   bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    host       text NOT NULL,
    pid        int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now()
);

-- attempt only grows; a write that carries an older attempt is refused. A session has one running turn at most.
-- task_token: lets whoever finds the worker dead fail the activity at once, so that its retry starts.
CREATE TABLE turns (
    id              text PRIMARY KEY,
    workspace_id    text NOT NULL REFERENCES workspaces,
    session_id      text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    status          text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'ended')),
    attempt         int NOT NULL DEFAULT 0,
    worker_id       text,
    task_token      bytea,
    model_token_hash bytea,
    outcome         jsonb,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at        timestamptz
);
CREATE INDEX turns_by_session ON turns (session_id, started_at);
CREATE UNIQUE INDEX turns_running ON turns (session_id) WHERE status = 'running';
CREATE UNIQUE INDEX turns_by_model_token ON turns (model_token_hash) WHERE status = 'running';

-- The side-effect journal. id is the tool use's event id, the exec id in the sandbox and the activity's id.
CREATE TABLE tool_calls (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces,
    session_id    text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    turn_id       text NOT NULL REFERENCES turns ON DELETE CASCADE,
    name          text NOT NULL,
    input         jsonb NOT NULL,
    state         text NOT NULL DEFAULT 'intended'
                  CHECK (state IN ('intended', 'dispatched', 'confirmed', 'unknown', 'refused')),
    verdict       text NOT NULL CHECK (verdict IN ('allow', 'deny')),
    sandbox_id    text,
    worker_id     text,
    task_token    bytea,
    result_event_id text,
    intended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    dispatched_at timestamptz,
    started_at    timestamptz,
    ended_at      timestamptz
);
CREATE INDEX tool_calls_by_session ON tool_calls (session_id, intended_at);
CREATE INDEX tool_calls_open ON tool_calls (worker_id) WHERE state = 'dispatched';

-- The row comes before the sandbox itself: what has no row is an orphan and is reaped.
CREATE TABLE sandboxes (
    id             text PRIMARY KEY,
    workspace_id   text NOT NULL REFERENCES workspaces,
    session_id     text NOT NULL REFERENCES sessions ON DELETE CASCADE,
    environment_id text NOT NULL,
    provider       text NOT NULL,
    host           text NOT NULL,
    generation     int NOT NULL,
    status         text NOT NULL CHECK (status IN ('creating', 'ready', 'ended')),
    end_reason     text,
    details        jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_used_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    UNIQUE (session_id, generation)
);
CREATE UNIQUE INDEX sandboxes_live ON sandboxes (session_id) WHERE status <> 'ended';

DO $$
DECLARE
    name text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'bulkhead_app') THEN
        CREATE ROLE bulkhead_app NOLOGIN NOBYPASSRLS;
    END IF;
    EXECUTE format('GRANT bulkhead_app TO %I', current_user);
    GRANT USAGE ON SCHEMA public TO bulkhead_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO bulkhead_app;
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO bulkhead_app;
    FOREACH name IN ARRAY ARRAY['workspaces', 'api_keys', 'idempotency_keys', 'agents', 'agent_versions',
        'environments', 'files', 'file_chunks', 'sessions', 'deleted_sessions', 'session_resources', 'events',
        'turns', 'tool_calls', 'sandboxes']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
    END LOOP;
END $$;

INSERT INTO workspaces (workspace_id, name) VALUES ('wrkspc_default', 'default');
