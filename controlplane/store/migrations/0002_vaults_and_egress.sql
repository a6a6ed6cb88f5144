-- Vaults and their credentials, the stubs that stand for them in sandboxes, and the record of what left a sandbox.

-- wrapped_key: the vault's data key under the master key master_key_id; without it no secret of the vault can be
-- read again, which is what archiving and deleting do.
CREATE TABLE vaults (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces,
    display_name  text NOT NULL,
    metadata      jsonb NOT NULL DEFAULT '{}',
    master_key_id text,
    wrapped_key   bytea,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    archived_at   timestamptz,
    CHECK ((wrapped_key IS NULL) = (archived_at IS NOT NULL)),
    CHECK ((wrapped_key IS NULL) = (master_key_id IS NULL))
);
CREATE INDEX vaults_by_created ON vaults (workspace_id, created_at DESC, id DESC);
CREATE INDEX vaults_by_master_key ON vaults (master_key_id) WHERE master_key_id IS NOT NULL;

-- sealed: the secret under the vault's data key, bound to this row and to version, which grows with each rotation.
CREATE TABLE credentials (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    vault_id     text NOT NULL REFERENCES vaults ON DELETE CASCADE,
    name         text NOT NULL,
    display_name text,
    metadata     jsonb NOT NULL DEFAULT '{}',
    binding      jsonb NOT NULL,
    version      int NOT NULL,
    sealed       bytea,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    archived_at  timestamptz,
    CHECK ((sealed IS NULL) = (archived_at IS NOT NULL))
);
CREATE UNIQUE INDEX credentials_by_name ON credentials (vault_id, name) WHERE archived_at IS NULL;
CREATE INDEX credentials_by_created ON credentials (vault_id, created_at DESC, id DESC);

CREATE TABLE sandbox_stubs (
    sandbox_id    text NOT NULL REFERENCES sandboxes ON DELETE CASCADE,
    credential_id text NOT NULL REFERENCES credentials ON DELETE CASCADE,
    workspace_id  text NOT NULL REFERENCES workspaces,
    stub          text NOT NULL UNIQUE,
    PRIMARY KEY (sandbox_id, credential_id)
);
CREATE INDEX sandbox_stubs_by_credential ON sandbox_stubs (credential_id);

-- The seed of the session's certificate authority, wrapped like a vault's data key.
CREATE TABLE session_authorities (
    session_id    text PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    workspace_id  text NOT NULL REFERENCES workspaces,
    master_key_id text NOT NULL,
    wrapped_seed  bytea NOT NULL
);
CREATE INDEX session_authorities_by_master_key ON session_authorities (master_key_id);

ALTER TABLE sessions ADD COLUMN egress_revoked_at timestamptz;
CREATE INDEX tool_calls_in_sandbox ON tool_calls (sandbox_id) WHERE state = 'dispatched';

-- Append-only, and kept when its session is deleted. What is allowed has a row before it happens and, under the same
-- exchange_id, one when it has ended. hash: SHA-256 of previous_hash and of the row as a JSON array,
-- so that a row that was changed, removed or put in later shows.
CREATE TABLE egress_decisions (
    session_id    text NOT NULL,
    seq           bigint NOT NULL,
    id            text NOT NULL,
    exchange_id   text NOT NULL,
    ended         boolean NOT NULL,
    workspace_id  text NOT NULL REFERENCES workspaces,
    sandbox_id    text NOT NULL,
    turn_id       text,
    tool_use_id   text,
    credential    text,
    method        text NOT NULL,
    host          text NOT NULL,
    port          int NOT NULL,
    path          text,
    verdict       text NOT NULL CHECK (verdict IN ('allowed', 'denied', 'failed', 'cut')),
    reason        text NOT NULL,
    message       text NOT NULL,
    status        int,
    bytes_up      bigint NOT NULL,
    bytes_down    bigint NOT NULL,
    duration_us   bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    previous_hash bytea NOT NULL,
    hash          bytea NOT NULL,
    PRIMARY KEY (session_id, seq)
);
CREATE INDEX egress_refusals_by_tool_use ON egress_decisions (tool_use_id, seq) WHERE verdict <> 'allowed';
CREATE INDEX egress_refusals_by_sandbox ON egress_decisions (sandbox_id, created_at) WHERE verdict <> 'allowed';

-- Records decisions, each behind the last of its session; the lock keeps two proxies from forking a chain. A decision
-- belongs to a tool call where exactly one was running in that sandbox.
CREATE FUNCTION record_egress(entries jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry record;
    head record;
    running record;
    moment timestamptz;
    canonical text;
BEGIN
    FOR entry IN
        SELECT e.* FROM ROWS FROM (jsonb_to_recordset(entries) AS (
            session_id text, id text, exchange_id text, ended boolean, workspace_id text, sandbox_id text,
            credential text, method text, host text, port int, path text, verdict text, reason text, message text,
            status int, bytes_up bigint, bytes_down bigint, duration_us bigint)) WITH ORDINALITY AS e
        ORDER BY e.session_id, e.ordinality
    LOOP
        PERFORM pg_advisory_xact_lock(hashtextextended(entry.session_id, 7100418));
        SELECT d.seq, d.hash INTO head FROM egress_decisions d
         WHERE d.session_id = entry.session_id ORDER BY d.seq DESC LIMIT 1;
        IF NOT FOUND THEN
            SELECT 0::bigint AS seq, decode(repeat('00', 32), 'hex') AS hash INTO head;
        END IF;
        SELECT CASE WHEN count(*) = 1 THEN min(c.id) END AS id,
               CASE WHEN count(*) = 1 THEN min(c.turn_id) END AS turn_id
          INTO running FROM tool_calls c
         WHERE c.sandbox_id = entry.sandbox_id AND c.state = 'dispatched' AND c.started_at IS NOT NULL;
        moment := clock_timestamp();
        canonical := json_build_array(entry.session_id, head.seq + 1, entry.id, entry.exchange_id, entry.ended,
            entry.workspace_id, entry.sandbox_id, running.turn_id, running.id, entry.credential, entry.method,
            entry.host, entry.port, entry.path, entry.verdict, entry.reason, entry.message, entry.status, entry.bytes_up, entry.bytes_down,
            entry.duration_us, to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text;
        INSERT INTO egress_decisions VALUES (entry.session_id, head.seq + 1, entry.id, entry.exchange_id,
            entry.ended, entry.workspace_id, entry.sandbox_id, running.turn_id, running.id, entry.credential,
            entry.method, entry.host, entry.port, entry.path, entry.verdict, entry.reason, entry.message, entry.status, entry.bytes_up, entry.bytes_down,
            entry.duration_us, moment, head.hash, sha256(head.hash || convert_to(canonical, 'UTF8')));
    END LOOP;
END $$;

-- Every change of what a sandbox may do is told on the channel bulkhead_policy as "kind id"; whoever holds a policy
-- that was made from that object reads it again.
CREATE FUNCTION tell_policy_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bulkhead_policy', TG_ARGV[0] || ' ' || OLD.id);
    RETURN NULL;
END $$;
CREATE FUNCTION tell_new_stub() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bulkhead_policy', 'sandbox ' || NEW.sandbox_id);
    RETURN NULL;
END $$;

CREATE TRIGGER sandbox_ended AFTER UPDATE OF status ON sandboxes FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status AND NEW.status = 'ended')
    EXECUTE FUNCTION tell_policy_change('sandbox');
CREATE TRIGGER sandbox_deleted AFTER DELETE ON sandboxes FOR EACH ROW
    EXECUTE FUNCTION tell_policy_change('sandbox');
CREATE TRIGGER session_changed
    AFTER UPDATE OF archived_at, egress_revoked_at, vault_ids, environment_id, agent, status ON sessions FOR EACH ROW
    WHEN (OLD.archived_at IS DISTINCT FROM NEW.archived_at
          OR OLD.egress_revoked_at IS DISTINCT FROM NEW.egress_revoked_at
          OR OLD.vault_ids IS DISTINCT FROM NEW.vault_ids
          OR OLD.environment_id IS DISTINCT FROM NEW.environment_id
          OR OLD.agent IS DISTINCT FROM NEW.agent
          OR (OLD.status <> NEW.status AND 'terminated' IN (OLD.status, NEW.status)))
    EXECUTE FUNCTION tell_policy_change('session');
CREATE TRIGGER session_deleted AFTER DELETE ON sessions FOR EACH ROW
    EXECUTE FUNCTION tell_policy_change('session');
CREATE TRIGGER environment_changed AFTER UPDATE OF config ON environments FOR EACH ROW
    WHEN (OLD.config IS DISTINCT FROM NEW.config)
    EXECUTE FUNCTION tell_policy_change('environment');
CREATE TRIGGER vault_changed AFTER UPDATE OF archived_at ON vaults FOR EACH ROW
    WHEN (OLD.archived_at IS DISTINCT FROM NEW.archived_at)
    EXECUTE FUNCTION tell_policy_change('vault');
CREATE TRIGGER vault_deleted AFTER DELETE ON vaults FOR EACH ROW
    EXECUTE FUNCTION tell_policy_change('vault');
CREATE TRIGGER credential_changed AFTER UPDATE OR DELETE ON credentials FOR EACH ROW
    EXECUTE FUNCTION tell_policy_change('credential');
CREATE TRIGGER stub_issued AFTER INSERT ON sandbox_stubs FOR EACH ROW
    EXECUTE FUNCTION tell_new_stub();

DO $$
DECLARE
    name text;
BEGIN
    GRANT SELECT, INSERT, UPDATE, DELETE ON vaults, credentials, sandbox_stubs, session_authorities TO bulkhead_app;
    GRANT SELECT, INSERT ON egress_decisions TO bulkhead_app;
    FOREACH name IN ARRAY ARRAY['vaults', 'credentials', 'sandbox_stubs', 'session_authorities', 'egress_decisions']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
    END LOOP;
END $$;
