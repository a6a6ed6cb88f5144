-- What a page of a listing, and each step of a turn, looks up must not grow with the length of a session.
CREATE INDEX tool_calls_unfinished ON tool_calls (session_id, intended_at) WHERE state IN ('intended', 'dispatched');
CREATE INDEX sessions_by_time ON sessions (created_at, id);
