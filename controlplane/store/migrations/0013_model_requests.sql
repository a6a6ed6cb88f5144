-- models: what the turn's present attempt may ask, its own model first and then those that stand in for it.
ALTER TABLE turns ADD COLUMN models jsonb;

-- usage: as the provider counted, or, with usage_estimated, as far as we could; null: nobody knows. fallback_for: the
-- model that was asked first, if another one stood in. status: of the provider's answer.
ALTER TABLE model_requests
    ADD COLUMN usage           jsonb,
    ADD COLUMN usage_estimated boolean NOT NULL DEFAULT false,
    ADD COLUMN fallback_for    text,
    ADD COLUMN first_byte_ms   int,
    ADD COLUMN status          int;
CREATE INDEX model_requests_by_session ON model_requests (session_id, started_at, id);

-- What was said, byte for byte, compressed with zstd. response: what came of it before it broke off, if it did.
CREATE TABLE model_exchanges (
    request_id    text PRIMARY KEY REFERENCES model_requests ON DELETE CASCADE,
    workspace_id  text NOT NULL REFERENCES workspaces,
    request       bytea NOT NULL,
    response      bytea NOT NULL,
    response_type text NOT NULL,
    kept_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE model_exchanges ALTER COLUMN request SET STORAGE EXTERNAL, ALTER COLUMN response SET STORAGE EXTERNAL;
CREATE INDEX model_exchanges_by_time ON model_exchanges (kept_at);

ALTER TABLE model_exchanges ENABLE ROW LEVEL SECURITY;
ALTER TABLE model_exchanges FORCE ROW LEVEL SECURITY;
CREATE POLICY one_workspace ON model_exchanges
    USING (current_setting('bulkhead.workspace_id', true) IN (workspace_id, '*'));
GRANT SELECT, INSERT, UPDATE, DELETE ON model_exchanges TO bulkhead_app;
