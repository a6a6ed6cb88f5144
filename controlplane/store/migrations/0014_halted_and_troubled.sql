-- halted_at: when a person ordered that the sandbox end. It is told also of one that is being put away already, and a
-- call that was dispatched before is not run in the next.
ALTER TABLE sandboxes ADD COLUMN halted_at timestamptz;
DROP TRIGGER sandbox_halted ON sandboxes;
CREATE TRIGGER sandbox_halted AFTER UPDATE OF halted_at ON sandboxes FOR EACH ROW
    WHEN (OLD.halted_at IS NULL AND NEW.halted_at IS NOT NULL)
    EXECUTE FUNCTION tell_policy_change('sandbox');
DROP TRIGGER sandbox_to_put_away ON sandboxes;
CREATE TRIGGER sandbox_to_put_away AFTER UPDATE OF halted_at ON sandboxes FOR EACH ROW
    WHEN (OLD.halted_at IS NULL AND NEW.halted_at IS NOT NULL)
    EXECUTE FUNCTION tell_halted();

-- What became of the attempts at running a call: attempt_open, until the last says how it ended; crashes, of those whose
-- worker died; trouble, what the latest failed at that may pass, troubled_since and troubled_at when such attempts began
-- to fail one after the other and when the last did.
ALTER TABLE tool_calls
    ADD COLUMN attempt_open   boolean NOT NULL DEFAULT false,
    ADD COLUMN crashes        int NOT NULL DEFAULT 0,
    ADD COLUMN trouble        text,
    ADD COLUMN troubled_since timestamptz,
    ADD COLUMN troubled_at    timestamptz;
