-- Front doors: where people talk with agents in another service. rules: who may talk with whom where
-- (controlplane/frontdoors/policy.py). team and app: whose the tokens in the vault are, learnt when they are first used.
-- key_id: under which its process asks the API; it goes with the front door.
CREATE TABLE front_doors (
    id           text PRIMARY KEY,
    workspace_id text NOT NULL REFERENCES workspaces,
    kind         text NOT NULL CHECK (kind IN ('slack')),
    name         text NOT NULL,
    vault_id     text NOT NULL REFERENCES vaults,
    rules        jsonb NOT NULL,
    team         text,
    app          text,
    key_id       text REFERENCES api_keys ON DELETE SET NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (workspace_id, name)
);

-- A thread is a session. opening: the request that makes it, decided before it is sent. seen_seq: up to where what the
-- session did is in the ledger below; failed_seq, failures: what of it could not be brought there last, and how often in a
-- row. report: the thread is begun by us, under this heading, with what a run of a deployment came to; root: our first
-- message there, once it stands. person: who spoke last. let_in: somebody who addressed us there may talk; until then what is
-- said there is not for us. lock_key: of the advisory lock that whoever works on the thread holds.
CREATE TABLE front_door_threads (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces,
    front_door_id text NOT NULL REFERENCES front_doors ON DELETE CASCADE,
    place         text NOT NULL,
    thread        text NOT NULL,
    report        text,
    root          text,
    person        text,
    let_in        boolean NOT NULL DEFAULT false,
    agent_id      text REFERENCES agents,
    opening       jsonb,
    session_id    text REFERENCES sessions ON DELETE CASCADE,
    seen_seq      bigint NOT NULL DEFAULT 0,
    failed_seq    bigint,
    failures      int NOT NULL DEFAULT 0,
    lock_key      serial,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (front_door_id, place, thread)
);
CREATE INDEX front_door_threads_by_session ON front_door_threads (session_id);

-- What people said and pressed. message: what it is known by in its place, so that one post is one row under however many
-- event ids it came. state: 'parked' waits to be addressed, 'held' for the choice of an agent, 'waiting' to be acted on.
-- request: what is sent to the session, decided before it is sent. failures: how often acting on it has failed.
-- happened_at: as the service says, or when we were told; they are acted on in this order.
CREATE TABLE front_door_inbox (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces,
    front_door_id text NOT NULL REFERENCES front_doors ON DELETE CASCADE,
    place         text NOT NULL,
    thread        text NOT NULL,
    message       text NOT NULL,
    person        text NOT NULL,
    body          jsonb NOT NULL,
    state         text NOT NULL CHECK (state IN ('parked', 'held', 'waiting', 'done', 'refused')),
    request       jsonb,
    failures      int NOT NULL DEFAULT 0,
    happened_at   timestamptz NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at       timestamptz,
    UNIQUE (front_door_id, place, message)
);
CREATE INDEX front_door_inbox_open ON front_door_inbox (front_door_id, place, thread)
    WHERE state IN ('parked', 'held', 'waiting');

CREATE INDEX front_door_inbox_done ON front_door_inbox (front_door_id, done_at) WHERE done_at IS NOT NULL;

CREATE INDEX front_door_inbox_by_person ON front_door_inbox (front_door_id, place, person, received_at DESC);

CREATE TABLE front_door_deliveries (
    front_door_id text NOT NULL REFERENCES front_doors ON DELETE CASCADE,
    delivery      text NOT NULL,
    workspace_id  text NOT NULL REFERENCES workspaces,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (front_door_id, delivery)
);
CREATE INDEX front_door_deliveries_by_age ON front_door_deliveries (received_at);

-- What is to stand in a thread, in this order. name: what it says, so that it is posted once. state: 'sending' until the
-- service has said under which id (remote) it stands; who finds a row in it looks there before sending again. revision:
-- grows when the body changes; shown: the revision that the service has. streamed: it was begun before it was whole.
-- withdrawn: it is to be taken away. failures: how often nothing could be done about it since something last could.
-- session_id: what the thread was when it was said; it goes with that one, also if the thread has left it.
CREATE TABLE front_door_posts (
    id            text PRIMARY KEY,
    workspace_id  text NOT NULL REFERENCES workspaces,
    thread_id     text NOT NULL REFERENCES front_door_threads ON DELETE CASCADE,
    session_id    text REFERENCES sessions ON DELETE CASCADE,
    ordinal       bigserial,
    name          text NOT NULL,
    body          jsonb NOT NULL,
    state         text NOT NULL DEFAULT 'intended' CHECK (state IN ('intended', 'sending', 'posted', 'failed', 'gone')),
    revision      int NOT NULL DEFAULT 0,
    shown         int,
    withdrawn     boolean NOT NULL DEFAULT false,
    failures      int NOT NULL DEFAULT 0,
    streamed      boolean NOT NULL DEFAULT false,
    remote        text,
    sent_at       timestamptz,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (thread_id, name)
);
CREATE INDEX front_door_posts_by_session ON front_door_posts (session_id);
CREATE INDEX front_door_posts_due ON front_door_posts (thread_id)
    WHERE state IN ('intended', 'sending') OR (state = 'posted' AND (withdrawn OR revision > shown));

-- When the next message may go to a place, whichever process sends it.
CREATE TABLE front_door_slots (
    front_door_id text NOT NULL REFERENCES front_doors ON DELETE CASCADE,
    name          text NOT NULL,
    workspace_id  text NOT NULL REFERENCES workspaces,
    next_at       timestamptz NOT NULL,
    PRIMARY KEY (front_door_id, name)
);

-- What was refused, and how often in that hour.
CREATE TABLE front_door_refusals (
    front_door_id text NOT NULL REFERENCES front_doors ON DELETE CASCADE,
    workspace_id  text NOT NULL REFERENCES workspaces,
    reason        text NOT NULL,
    place         text NOT NULL,
    person        text NOT NULL,
    hour          timestamptz NOT NULL,
    count         bigint NOT NULL DEFAULT 1,
    last_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (front_door_id, reason, place, person, hour)
);

-- Where what its runs come to is told: {"front_door_id", "place"}.
ALTER TABLE deployments ADD COLUMN reports_to jsonb;

GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO bulkhead_app;
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['front_doors', 'front_door_threads', 'front_door_inbox', 'front_door_deliveries',
                                'front_door_posts', 'front_door_slots', 'front_door_refusals']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO bulkhead_app', name);
    END LOOP;
END $$;
