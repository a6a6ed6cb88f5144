-- read_untrusted_at: since when the session has been shown a block that nobody vouches for. It stays when the block goes.
ALTER TABLE sessions ADD COLUMN read_untrusted_at timestamptz;
