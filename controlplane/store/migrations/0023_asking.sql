-- What a model request is checked against before it is reserved, in one round trip: the running turn that a token belongs
-- to, what runs beside it, the prices that were set, and whether there are budgets. Locks the turn, its session and agent.
-- Each statement sees what was committed before it began, so that what runs is summed up under the lock.
CREATE FUNCTION asking(token_hash bytea) RETURNS TABLE (
    id text, turn_id text, workspace_id text, agent_id text, budget jsonb, budget_ids jsonb, cost_usd numeric,
    tokens bigint, frozen_at timestamptz, reserved_usd numeric, reserved_tokens bigint, prices jsonb, is_budgeted boolean
) LANGUAGE plpgsql AS $$
DECLARE
    held record;
BEGIN
    SELECT s.id, t.id AS turn_id, s.workspace_id, s.agent_id, s.budget, s.budget_ids, s.cost_usd, s.tokens, a.frozen_at
      INTO held
      FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
     WHERE t.model_token_hash = token_hash AND t.status = 'running' FOR UPDATE OF s FOR SHARE OF t, a;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT held.id, held.turn_id, held.workspace_id, held.agent_id, held.budget, held.budget_ids, held.cost_usd,
           held.tokens::bigint, held.frozen_at, coalesce(sum(r.reserved_usd), 0)::numeric,
           coalesce(sum(r.reserved_tokens), 0)::bigint,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('model', p.model, 'price', p.price)
                                      ORDER BY length(p.model) DESC, p.model), '[]')
              FROM model_prices p WHERE p.workspace_id = held.workspace_id),
           EXISTS (SELECT FROM budgets b WHERE b.archived_at IS NULL
                                           AND (b.agent_id = held.agent_id OR held.budget_ids ? b.id))
      FROM model_requests r WHERE r.session_id = held.id AND r.state = 'running';
END $$;
