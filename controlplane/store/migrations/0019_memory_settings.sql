-- What a version's content had to be, so that a memory that was deleted comes back as it was.
ALTER TABLE memory_versions
    ADD COLUMN json_schema jsonb,
    ADD COLUMN size_limit  int,
    ADD COLUMN protected   boolean NOT NULL DEFAULT false;
