"""What is to stand in the threads of a front door: committed before it is sent, under a name that it has again when
it is made again. So whatever dies, a message is sent once."""

from datetime import datetime
from typing import Literal, LiteralString

import structlog
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from controlplane.frontdoors.contract import Body, Post, Text
from controlplane.ids import new_id
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.pool import Connection, one, rows

_log = structlog.get_logger(__name__)

_BODY: TypeAdapter[Body] = TypeAdapter(Body)

_COLUMNS: LiteralString = (
    "id, session_id, name, body, state, revision, withdrawn, remote, streamed, sent_at,"
    " extract(epoch FROM clock_timestamp() - sent_at)::float8 AS sent_seconds"
)


class DuePost(BaseModel):
    """A message and what is to be done about it. ``sent_seconds``: since it was last sent. ``streamed``: `Post`."""

    model_config = ConfigDict(frozen=True)

    id: str
    session_id: str | None
    name: str
    body: Body
    state: Literal["intended", "sending", "posted"]
    revision: int
    withdrawn: bool
    remote: str | None
    streamed: bool
    sent_at: datetime | None
    sent_seconds: float | None

    def post(self) -> Post:
        """Return it as services take it."""
        return Post(id=self.id, body=self.body, remote=self.remote, streamed=self.streamed)


class Stumble(BaseModel):
    """A message about which nothing could be done, ``failures`` times in a row."""

    model_config = ConfigDict(frozen=True)

    name: str
    session_id: str | None
    withdrawn: bool
    failures: int


class UnreadablePostError(Exception):
    """What is on record of a message is not what this release writes."""

    def __init__(self, post_id: str):
        super().__init__(post_id)
        self.post_id = post_id


async def intend(
    connection: Connection,
    at: DoorThread,
    workspace_id: str,
    name: str,
    body: Body,
    *,
    instead_of: str | None = None,
) -> None:
    """Have a message stand in a thread, for as long as the session is there that the thread is by then.

    The same name again changes nothing. ``instead_of``: it comes when that one would have.
    """
    await connection.execute(
        "INSERT INTO front_door_posts (id, workspace_id, thread_id, session_id, name, body, ordinal)"
        " VALUES (%(id)s, %(ws)s, %(thread)s, %(session)s, %(name)s, %(body)s, coalesce("
        "(SELECT ordinal FROM front_door_posts WHERE id = %(of)s), nextval('front_door_posts_ordinal_seq')))"
        " ON CONFLICT (thread_id, name) DO NOTHING",
        {
            "id": new_id("post"),
            "ws": workspace_id,
            "thread": at.id,
            "session": at.session_id,
            "name": name,
            "body": Jsonb(body.model_dump(mode="json")),
            "of": instead_of,
        },
    )


async def revise(connection: Connection, thread_id: str, name: str, body: Body) -> None:
    """Have a message say something else."""
    await connection.execute(
        "UPDATE front_door_posts SET body = %(body)s, revision = revision + 1 WHERE thread_id = %(thread)s"
        " AND name = %(name)s AND body <> %(body)s AND (body ->> 'live_for' IS NOT NULL OR NOT %(live)s)",
        {
            "body": Jsonb(body.model_dump(mode="json")),
            "thread": thread_id,
            "name": name,
            # What is whole is not taken back to what it was while it was written.
            "live": isinstance(body, Text) and body.live_for is not None,
        },
    )


async def finish(connection: Connection, thread_id: str, name: str, body: Body) -> None:
    """Have a message that was shown while it was written say all of it; that it could not be shown counts no more.

    Also if it was taken away meanwhile, or could not be shown any further: then it comes behind all that stands.
    """
    await connection.execute(
        "UPDATE front_door_posts SET body = %(body)s, revision = revision + 1, withdrawn = false, failures = 0,"
        " remote = CASE WHEN state IN ('gone', 'failed') THEN NULL ELSE remote END,"
        " ordinal = CASE WHEN state IN ('gone', 'failed')"
        " THEN nextval('front_door_posts_ordinal_seq') ELSE ordinal END,"
        " state = CASE WHEN state IN ('gone', 'failed') THEN 'intended' ELSE state END"
        " WHERE thread_id = %(thread)s AND name = %(name)s AND body ->> 'live_for' IS NOT NULL",
        {"body": Jsonb(body.model_dump(mode="json")), "thread": thread_id, "name": name},
    )


async def drop_live(connection: Connection, thread_id: str) -> None:
    """Take away what was shown while it was written, and was never finished."""
    await connection.execute(
        "UPDATE front_door_posts SET withdrawn = true, state = CASE state WHEN 'intended' THEN 'gone' ELSE state END"
        " WHERE thread_id = %s AND body ->> 'live_for' IS NOT NULL AND state IN ('intended', 'sending', 'posted')",
        (thread_id,),
    )


async def withdraw(connection: Connection, thread_id: str, prefix: str) -> None:
    """Have messages whose names begin with ``prefix`` taken away."""
    await connection.execute(
        "UPDATE front_door_posts SET withdrawn = true, state = CASE state WHEN 'intended' THEN 'gone' ELSE state END"
        " WHERE thread_id = %s AND starts_with(name, %s) AND state IN ('intended', 'sending', 'posted')",
        (thread_id, prefix),
    )


async def bodies(connection: Connection, thread_id: str, prefix: str) -> dict[str, Body]:
    """Return what messages say whose names begin with ``prefix``, but for those that another release has written."""
    found = await rows(
        connection,
        "SELECT id, name, body FROM front_door_posts WHERE thread_id = %(thread)s AND starts_with(name, %(prefix)s)"
        " AND state <> 'gone'",
        {"thread": thread_id, "prefix": prefix},
    )
    read: dict[str, Body] = {}
    for row in found:
        try:
            read[row["name"]] = _BODY.validate_python(row["body"])
        except ValidationError:
            _log.warning("post_unreadable", post_id=row["id"])
    return read


async def standing(connection: Connection, thread_id: str, prefix: str) -> str | None:
    """Return the name of a message that stands, or is to, and is to stay, whose name begins with ``prefix``."""
    row = await one(
        connection,
        "SELECT name FROM front_door_posts WHERE thread_id = %(thread)s AND starts_with(name, %(prefix)s)"
        " AND NOT withdrawn AND state IN ('intended', 'sending', 'posted') LIMIT 1",
        {"thread": thread_id, "prefix": prefix},
    )
    return row["name"] if row else None


async def is_writing(connection: Connection, thread_id: str) -> bool:
    """Say whether a message stands in a thread, or is to, that is not whole yet."""
    row = await one(
        connection,
        "SELECT id FROM front_door_posts WHERE thread_id = %(id)s AND body ->> 'live_for' IS NOT NULL"
        " AND NOT withdrawn AND state IN ('intended', 'sending', 'posted') LIMIT 1",
        {"id": thread_id},
    )
    return row is not None


async def due(connection: Connection, thread_id: str) -> DuePost | None:
    """Return the first message of a thread about which something is to be done; raises `UnreadablePostError`."""
    row = await one(
        connection,
        "SELECT " + _COLUMNS + " FROM front_door_posts WHERE thread_id = %(id)s AND (state IN ('intended', 'sending')"
        " OR (state = 'posted' AND (withdrawn OR revision > shown))) ORDER BY ordinal, created_at LIMIT 1",
        {"id": thread_id},
    )
    if row is None:
        return None
    try:
        return DuePost.model_validate(row)
    except ValidationError as error:
        raise UnreadablePostError(row["id"]) from error


async def hold_session(connection: Connection, post_id: str) -> None:
    """Keep the session that a message was said for, if it is there, from being deleted until the transaction ends.

    Before the message is touched: whoever deletes a session holds it before its messages.
    """
    await connection.execute(
        "SELECT FROM sessions WHERE id = (SELECT session_id FROM front_door_posts WHERE id = %s) FOR KEY SHARE",
        (post_id,),
    )


async def stumbled(connection: Connection, post_id: str) -> Stumble | None:
    """Count that nothing could be done about a message; None: it is gone."""
    row = await one(
        connection,
        "UPDATE front_door_posts SET failures = failures + 1 WHERE id = %(id)s"
        " RETURNING name, session_id, withdrawn, failures",
        {"id": post_id},
    )
    return Stumble.model_validate(row) if row else None


async def given_up(connection: Connection, post_id: str) -> None:
    """Note that nothing more is done about a message."""
    await connection.execute("UPDATE front_door_posts SET state = 'failed' WHERE id = %s", (post_id,))


async def remotes(connection: Connection, thread_id: str) -> set[str]:
    """Return the ids of all messages that stand in a thread."""
    found = await rows(
        connection,
        "SELECT remote FROM front_door_posts WHERE thread_id = %(id)s AND remote IS NOT NULL",
        {"id": thread_id},
    )
    return {row["remote"] for row in found}


async def sending(connection: Connection, due: DuePost) -> DuePost | None:
    """Note that a message is about to be sent, whole or as far as it is written, and return it as it is by now.

    None: it is not as it was found any more, since somebody else sends it, or it is not to be sent.
    """
    row = await one(
        connection,
        "UPDATE front_door_posts SET state = 'sending', sent_at = clock_timestamp(),"
        " streamed = body ->> 'live_for' IS NOT NULL"
        " WHERE id = %(id)s AND state = %(state)s AND sent_at IS NOT DISTINCT FROM %(sent_at)s RETURNING " + _COLUMNS,
        {"id": due.id, "state": due.state, "sent_at": due.sent_at},
    )
    return DuePost.model_validate(row) if row else None


async def prepared(connection: Connection, post_id: str, body: Body) -> None:
    """Note what the service calls an attachment that it holds for us."""
    await connection.execute(
        "UPDATE front_door_posts SET body = %s WHERE id = %s", (Jsonb(body.model_dump(mode="json")), post_id)
    )


async def put_off(connection: Connection, sent: DuePost) -> None:
    """Note that a message cannot be shown while it is written; it comes when it is whole, which it may be by now."""
    await connection.execute(
        "UPDATE front_door_posts SET streamed = false, withdrawn = body ->> 'live_for' IS NOT NULL,"
        " state = CASE WHEN body ->> 'live_for' IS NOT NULL THEN 'gone' ELSE 'intended' END"
        " WHERE id = %s AND state = 'sending' AND sent_at = %s",
        (sent.id, sent.sent_at),
    )


async def unsent(connection: Connection, sent: DuePost) -> None:
    """Note that the service did not take a message."""
    await connection.execute(
        "UPDATE front_door_posts SET state = CASE WHEN withdrawn THEN 'gone' ELSE 'intended' END"
        " WHERE id = %s AND state = 'sending' AND sent_at = %s",
        (sent.id, sent.sent_at),
    )


async def posted(connection: Connection, post_id: str, remote: str, *, revision: int) -> None:
    """Note under which id a message stands, and what it says there; ``revision`` -1: nobody knows."""
    await connection.execute(
        "UPDATE front_door_posts SET state = 'posted', remote = %s, shown = %s, failures = 0 WHERE id = %s",
        (remote, revision, post_id),
    )


async def gone(connection: Connection, post_id: str) -> None:
    """Note that a message does not stand there any more; one that is to stand there after all is sent anew."""
    await connection.execute(
        "UPDATE front_door_posts SET streamed = false, remote = NULL,"
        " state = CASE WHEN withdrawn THEN 'gone' ELSE 'intended' END WHERE id = %s",
        (post_id,),
    )


async def failed(connection: Connection, due: DuePost) -> bool:
    """Note that a message will never stand there as it was found; False: it says something else by now."""
    row = await one(
        connection,
        "UPDATE front_door_posts SET state = 'failed' WHERE id = %(id)s AND revision = %(revision)s RETURNING id",
        {"id": due.id, "revision": due.revision},
    )
    return row is not None


async def has_posts(connection: Connection, thread_id: str) -> bool:
    """Say whether something stands in a thread, or is to."""
    row = await one(connection, "SELECT id FROM front_door_posts WHERE thread_id = %(id)s LIMIT 1", {"id": thread_id})
    return row is not None
