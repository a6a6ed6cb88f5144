-- frozen_at: no turn, no model request and no egress until the agent is thawed.
ALTER TABLE agents ADD COLUMN frozen_at timestamptz;
CREATE TRIGGER agent_frozen AFTER UPDATE OF frozen_at ON agents FOR EACH ROW
    WHEN (OLD.frozen_at IS DISTINCT FROM NEW.frozen_at)
    EXECUTE FUNCTION tell_policy_change('agent');

-- quiet_at: process 1 said that all commands had ended, background and all. A halted sandbox has no way out at once, and
-- its host puts it away at once.
ALTER TABLE sandboxes ADD COLUMN quiet_at timestamptz;
CREATE TRIGGER sandbox_halted AFTER UPDATE OF status ON sandboxes FOR EACH ROW
    WHEN (OLD.status <> 'retiring' AND NEW.status = 'retiring' AND NEW.end_reason = 'halted')
    EXECUTE FUNCTION tell_policy_change('sandbox');
CREATE FUNCTION tell_halted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('bulkhead_halted', NEW.host);
    RETURN NULL;
END $$;
CREATE TRIGGER sandbox_to_put_away AFTER UPDATE OF status ON sandboxes FOR EACH ROW
    WHEN (OLD.status <> 'retiring' AND NEW.status = 'retiring' AND NEW.end_reason = 'halted')
    EXECUTE FUNCTION tell_halted();

CREATE INDEX egress_decisions_by_exchange ON egress_decisions (exchange_id);
CREATE INDEX egress_decisions_begun ON egress_decisions (sandbox_id, created_at) WHERE NOT ended AND verdict = 'allowed';
