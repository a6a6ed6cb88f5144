-- standing: 'shown': the file says what the memory said at that version. 'arriving': it is being written, over what had the
-- hash was_sha256. 'leaving': it is shown no more, and is to be removed. 'refused': nothing was saved of what it holds.
-- 'unsaved': so too, and nothing may be written over it until it is saved. 'redacted': its hash must not be kept.
ALTER TABLE shown_memories
    ADD COLUMN standing   text NOT NULL DEFAULT 'shown'
        CHECK (standing IN ('shown', 'arriving', 'leaving', 'refused', 'unsaved', 'redacted')),
    ADD COLUMN was_sha256 text;
SELECT set_config('bulkhead.workspace_id', '*', true);
UPDATE shown_memories SET standing = 'refused' WHERE memory_id IS NULL;

-- Which store a folder under /mnt/memory in a sandbox has files of. A row outlives the attachment and the store: the
-- folder is emptied first.
CREATE TABLE shown_stores (
    sandbox_id   text NOT NULL REFERENCES sandboxes ON DELETE CASCADE,
    folder       text NOT NULL,
    store_id     text NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    PRIMARY KEY (sandbox_id, folder)
);
INSERT INTO shown_stores (sandbox_id, folder, store_id, workspace_id)
    SELECT DISTINCT ON (b.id, r.config ->> 'mount_path') b.id, replace(r.config ->> 'mount_path', '/mnt/memory/', ''),
           r.config ->> 'memory_store_id', b.workspace_id
      FROM sandboxes b JOIN session_resources r ON r.session_id = b.session_id
     WHERE r.type = 'memory_store';

-- Texts that a model gave no vector for, while it gave one for others. They are asked for again after a while.
CREATE TABLE memory_vectorless (
    version_id   text NOT NULL REFERENCES memory_versions ON DELETE CASCADE,
    model        text NOT NULL,
    workspace_id text NOT NULL REFERENCES workspaces,
    refused_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (version_id, model)
);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['shown_stores', 'memory_vectorless']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY one_workspace ON %I USING '
            '(current_setting(''bulkhead.workspace_id'', true) IN (workspace_id, ''*''))', name);
    END LOOP;
    GRANT SELECT, INSERT, UPDATE, DELETE ON shown_stores, memory_vectorless TO bulkhead_app;
END $$;
