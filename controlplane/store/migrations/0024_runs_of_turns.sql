-- run_id: of the deployment's run whose inputs the turn took, or of which it is the continuation; null: of none.
ALTER TABLE turns ADD COLUMN run_id text;
CREATE INDEX turns_by_run ON turns (run_id, started_at) WHERE run_id IS NOT NULL;
CREATE INDEX model_requests_by_turn ON model_requests (turn_id);

UPDATE turns t SET run_id = (
    SELECT r.id
      FROM events e LEFT JOIN deployment_runs r ON r.session_id = e.session_id AND r.state = 'running' AND r.inputs ? e.id
     WHERE e.session_id = t.session_id AND e.type = 'user.message' AND e.processed_at IS NOT NULL
       AND e.position <= t.begun_seq + 1
     ORDER BY e.position DESC, e.seq DESC LIMIT 1)
 WHERE t.session_id IN (SELECT session_id FROM deployment_runs WHERE state = 'running');

-- deadline_at: when the run is interrupted; what the deployment says later does not move it.
ALTER TABLE deployment_runs ADD COLUMN deadline_at timestamptz;
UPDATE deployment_runs r SET deadline_at = r.started_at + d.deadline_seconds * interval '1 second'
  FROM deployments d WHERE d.id = r.deployment_id AND r.state = 'running';
