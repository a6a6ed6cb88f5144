-- begun_seq: the session's last_seq when the turn began. An interrupt that was recorded later means this turn.
ALTER TABLE turns ADD COLUMN begun_seq bigint NOT NULL DEFAULT 0;
