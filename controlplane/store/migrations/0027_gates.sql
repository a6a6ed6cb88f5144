-- What a sandbox on another machine says at the gate of the egress proxies, as its SHA-256; null: it uses none.
ALTER TABLE sandboxes ADD COLUMN gate_sha256 bytea CHECK (octet_length(gate_sha256) = 32);
CREATE TRIGGER sandbox_admitted AFTER UPDATE OF gate_sha256 ON sandboxes FOR EACH ROW
    WHEN (OLD.gate_sha256 IS DISTINCT FROM NEW.gate_sha256)
    EXECUTE FUNCTION tell_policy_change('sandbox');
