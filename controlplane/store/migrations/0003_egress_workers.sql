-- The egress proxies hold leases too, so that anybody can see whether one lives.
ALTER TABLE workers DROP CONSTRAINT workers_kind_check;
ALTER TABLE workers ADD CONSTRAINT workers_kind_check CHECK (kind IN ('brain', 'sandbox', 'egress'));
