-- Memory: stores, the memories in them, every version of each, and a vector for each version.

CREATE EXTENSION IF NOT EXISTS vector;

-- owner_kind, owner_id: whose sessions may attach it; shared: any. access: whether agents may write to it at all.
-- memories, bytes: what it holds, counted under its row's lock, which every write takes. indexed: whether it is so large
-- that its vectors are in the index over vectors, all of them.
CREATE TABLE memory_stores (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    name         text NOT NULL,
    description  text NOT NULL DEFAULT '',
    metadata     jsonb NOT NULL DEFAULT '{}',
    owner_kind   text NOT NULL DEFAULT 'shared' CHECK (owner_kind IN ('agent', 'user', 'session', 'shared')),
    owner_id     text,
    access       text NOT NULL DEFAULT 'read_write' CHECK (access IN ('read_write', 'read_only')),
    max_memories int NOT NULL,
    max_bytes    bigint NOT NULL,
    memories     int NOT NULL DEFAULT 0,
    bytes        bigint NOT NULL DEFAULT 0,
    indexed      boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    archived_at  timestamptz,
    CHECK ((owner_kind = 'shared') = (owner_id IS NULL))
);
CREATE INDEX memory_stores_by_created ON memory_stores (workspace_id, created_at DESC, id DESC);

-- What a path holds now. version: counts its versions from 1; version_id: the newest of them, which has the content.
-- memory_type: of a block. json_schema, size_limit (characters): what its content must be. protected: nothing of
-- doubtful origin is written to it. untrusted: some of its content is of such origin.
CREATE TABLE memories (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    store_id     text NOT NULL REFERENCES memory_stores ON DELETE CASCADE,
    path         text COLLATE "C" NOT NULL,
    version      int NOT NULL,
    version_id   text NOT NULL,
    content      text NOT NULL,
    sha256       text NOT NULL,
    size_bytes   int NOT NULL,
    memory_type  text,
    json_schema  jsonb,
    size_limit   int,
    protected    boolean NOT NULL DEFAULT false,
    untrusted    boolean NOT NULL DEFAULT false,
    supersedes   text COLLATE "C",
    expires_at   timestamptz,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    UNIQUE (store_id, path)
);
CREATE INDEX memories_expiring ON memories (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX memories_as_blocks ON memories (store_id) WHERE memory_type IS NOT NULL;

-- Pieces of three characters of each word, which find a name that was written otherwise.
CREATE FUNCTION memory_trigrams(given text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT coalesce(array_agg(DISTINCT substr('  ' || word || ' ', place, 3)), '{}')
              FROM regexp_split_to_table(lower(left(given, 20000)), '[^[:alnum:]]+') AS word,
                   generate_series(1, length(word) + 1) AS place
             WHERE word <> '');

-- Every version that a memory ever had. held_from, held_to: when it was what the memory said; held_to null: it is.
-- Redaction takes path, content and what was derived of them. created_by: the wire format's actor; provenance: the rest.
CREATE TABLE memory_versions (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    store_id     text NOT NULL REFERENCES memory_stores ON DELETE CASCADE,
    memory_id    text NOT NULL,
    version      int NOT NULL,
    operation    text NOT NULL CHECK (operation IN ('created', 'modified', 'deleted')),
    path         text COLLATE "C",
    content      text,
    sha256       text,
    size_bytes   int,
    memory_type  text,
    untrusted    boolean NOT NULL DEFAULT false,
    supersedes   text COLLATE "C",
    expires_at   timestamptz,
    created_by   jsonb,
    provenance   jsonb NOT NULL DEFAULT '{}',
    held_from    timestamptz NOT NULL,
    held_to      timestamptz,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    redacted_at  timestamptz,
    redacted_by  jsonb,
    words        tsvector GENERATED ALWAYS AS (
                     setweight(to_tsvector('english', regexp_replace(coalesce(path, ''), '[^[:alnum:]]+', ' ', 'g')), 'D')
                     || setweight(to_tsvector('english', left(coalesce(content, ''), 200000)), 'A')) STORED,
    trigrams     text[] GENERATED ALWAYS AS (memory_trigrams(coalesce(content, ''))) STORED,
    UNIQUE (memory_id, version)
);
CREATE INDEX memory_versions_by_store ON memory_versions (store_id, created_at DESC, id DESC);
CREATE INDEX memory_versions_held ON memory_versions (store_id) WHERE held_to IS NULL;
CREATE INDEX memory_versions_superseding ON memory_versions (store_id, supersedes) WHERE supersedes IS NOT NULL;
CREATE INDEX memory_versions_words ON memory_versions USING gin (words);

-- Which model gives the vectors that are searched with. A row is there from the first vector on.
CREATE TABLE memory_models (
    model     text PRIMARY KEY,
    dimension int NOT NULL,
    active    boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX memory_models_active ON memory_models (active) WHERE active;

-- indexed: only the vectors of large stores are; those of the others are compared one by one, which is quick, and a save
-- does not wait for the index.
CREATE TABLE memory_vectors (
    version_id   text NOT NULL REFERENCES memory_versions ON DELETE CASCADE,
    model        text NOT NULL,
    dimension    int NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    store_id     text NOT NULL,
    embedding    vector NOT NULL,
    indexed      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (version_id, model)
);
CREATE INDEX memory_vectors_by_store ON memory_vectors (store_id, model);
CREATE INDEX memory_vectors_to_index ON memory_vectors (store_id) WHERE NOT indexed;
CREATE INDEX memory_vectors_256 ON memory_vectors USING hnsw ((embedding::vector(256)) vector_cosine_ops)
    WHERE indexed AND dimension = 256;
CREATE INDEX memory_vectors_384 ON memory_vectors USING hnsw ((embedding::vector(384)) vector_cosine_ops)
    WHERE indexed AND dimension = 384;
CREATE INDEX memory_vectors_768 ON memory_vectors USING hnsw ((embedding::vector(768)) vector_cosine_ops)
    WHERE indexed AND dimension = 768;
CREATE INDEX memory_vectors_1024 ON memory_vectors USING hnsw ((embedding::vector(1024)) vector_cosine_ops)
    WHERE indexed AND dimension = 1024;
CREATE INDEX memory_vectors_1536 ON memory_vectors USING hnsw ((embedding::vector(1536)) vector_cosine_ops)
    WHERE indexed AND dimension = 1536;

-- What lies under /mnt/memory in a sandbox, as it was last written there or taken from there.
CREATE TABLE shown_memories (
    sandbox_id   text NOT NULL REFERENCES sandboxes ON DELETE CASCADE,
    store_id     text NOT NULL,
    path         text COLLATE "C" NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    memory_id    text,
    version      int,
    sha256       text NOT NULL,
    PRIMARY KEY (sandbox_id, store_id, path)
);

-- The key of a workspace under which secrets are hashed, wrapped like a vault's data key; and the hashes, by which a
-- secret of a vault is known again in a text: head, of its first eight characters, and whole.
CREATE TABLE recognition_keys (
    workspace_id  text PRIMARY KEY REFERENCES workspaces,
    master_key_id text NOT NULL,
    wrapped_key   bytea NOT NULL
);
CREATE INDEX recognition_keys_by_master_key ON recognition_keys (master_key_id);
ALTER TABLE credentials
    ADD COLUMN mark_head   bytea,
    ADD COLUMN mark_whole  bytea,
    ADD COLUMN mark_length int;

-- user_id: on whose behalf a session works, as its maker says.
ALTER TABLE sessions ADD COLUMN user_id text;
CREATE INDEX session_resources_by_store ON session_resources ((config ->> 'memory_store_id'))
    WHERE type = 'memory_store';

ALTER TABLE workers DROP CONSTRAINT workers_kind_check;
ALTER TABLE workers ADD CONSTRAINT workers_kind_check CHECK (kind IN ('brain', 'sandbox', 'egress', 'memory'));

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['memory_stores', 'memories', 'memory_versions', 'memory_vectors', 'shown_memories',
        'recognition_keys']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
    END LOOP;
    GRANT SELECT, INSERT, UPDATE, DELETE ON memory_stores, memories, memory_versions, memory_models, memory_vectors,
        shown_memories, recognition_keys TO bulkhead_app;
END $$;
