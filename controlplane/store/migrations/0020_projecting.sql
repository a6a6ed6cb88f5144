-- projecting_until: until when one process may tell Temporal of the deployment; it does so without a transaction.
ALTER TABLE deployments ADD COLUMN projecting_until timestamptz;
