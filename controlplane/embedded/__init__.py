"""`bulkhead up`: Postgres, Temporal and every part of the control plane on one machine."""
