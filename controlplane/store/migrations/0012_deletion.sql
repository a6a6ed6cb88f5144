-- session_id: whose content the answer holds; deleting that session empties it.
ALTER TABLE idempotency_keys ADD COLUMN session_id text;
CREATE INDEX idempotency_keys_by_session ON idempotency_keys (session_id) WHERE session_id IS NOT NULL;
