-- A stub outlives its credential: a sandbox that holds it is refused its use, and where it was bound nothing passes unread.
-- name, binding: the credential's last, once it is deleted.
ALTER TABLE sandbox_stubs
    DROP CONSTRAINT sandbox_stubs_credential_id_fkey,
    ADD COLUMN name    text,
    ADD COLUMN binding jsonb;

CREATE FUNCTION keep_stubs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sandbox_stubs SET name = OLD.name, binding = OLD.binding WHERE credential_id = OLD.id;
    RETURN OLD;
END $$;
CREATE TRIGGER credential_deleted BEFORE DELETE ON credentials FOR EACH ROW EXECUTE FUNCTION keep_stubs();

-- held_seq: the last turn did not get to its end, and the queue up to this seq waits until it is tried again.
ALTER TABLE sessions ADD COLUMN held_seq bigint;
UPDATE sessions SET held_seq = CASE WHEN stop_reason ->> 'type' = 'budget_reached' OR failure ->> 'cause' = 'agent_frozen'
                                    THEN 9223372036854775807 ELSE last_seq END
 WHERE status = 'idle' AND (stop_reason ->> 'type' = 'budget_reached' OR failure IS NOT NULL);
