"""The messages of a front door's threads, while more than one process sees them."""

import pytest
from psycopg.types.json import Jsonb

from controlplane.frontdoors.contract import Attachment, Text
from controlplane.store import front_door_inbox, front_door_posts, front_door_threads
from controlplane.store.front_door_posts import DuePost, UnreadablePostError
from controlplane.store.front_door_threads import Among, DoorThread
from controlplane.store.pool import Connection, Database
from tests.integration.store.conftest import WORKSPACE, Say
from tests.support.frontdoors import make_door, make_thread


async def intended(connection: Connection, at: DoorThread, name: str = "answer") -> DuePost:
    await front_door_posts.intend(connection, at, WORKSPACE, name, Text(markdown="hello"))
    due = await front_door_posts.due(connection, at.id)
    assert due is not None
    return due


async def test_one_of_two_who_have_found_a_message_sends_it(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        due = await intended(connection, await make_thread(connection, await make_door(connection)))
        sent = await front_door_posts.sending(connection, due)
        assert sent is not None
        assert await front_door_posts.sending(connection, due) is None
        again = await front_door_posts.sending(connection, sent)
        assert again is not None, "who looked in vain sends it once more"
        assert await front_door_posts.sending(connection, sent) is None
        await front_door_posts.unsent(connection, sent)
        assert (await front_door_posts.due(connection, "no thread")) is None
        still = await front_door_posts.due(connection, await thread_of(connection, due))
        assert still is not None
        assert still.state == "sending", "who is not its sender any more says nothing about it"


async def test_a_message_that_is_taken_away_before_its_turn_is_not_sent(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        due = await intended(connection, at, "status:1")
        await front_door_posts.withdraw(connection, at.id, "status:")
        assert await front_door_posts.sending(connection, due) is None
        assert await front_door_posts.due(connection, at.id) is None


async def test_what_is_sent_is_what_it_says_by_then(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        due = await intended(connection, at)
        await front_door_posts.revise(connection, at.id, "answer", Text(markdown="changed"))
        sent = await front_door_posts.sending(connection, due)
    assert sent is not None
    assert (sent.body, sent.revision) == (Text(markdown="changed"), 1)


async def test_what_could_not_be_shown_while_it_was_written_is_sent_when_it_is_whole(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        await front_door_posts.intend(connection, at, WORKSPACE, "answer", Text(markdown="hel", live_for="U01ALICE"))
        due = await front_door_posts.due(connection, at.id)
        assert due is not None
        await front_door_posts.posted(connection, due.id, "2.0", revision=0)
        assert await front_door_posts.failed(connection, due)
        await front_door_posts.finish(connection, at.id, "answer", Text(markdown="hello"))
        whole = await front_door_posts.due(connection, at.id)
    assert whole is not None
    assert (whole.state, whole.remote, whole.body) == ("intended", None, Text(markdown="hello"))


async def test_what_could_not_be_shown_while_it_was_written_comes_behind_what_stands_by_then(
    database: Database,
) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        await front_door_posts.intend(connection, at, WORKSPACE, "answer", Text(markdown="hel", live_for="U01ALICE"))
        await front_door_posts.drop_live(connection, at.id)
        status = await intended(connection, at, "status:1")
        await front_door_posts.finish(connection, at.id, "answer", Text(markdown="hello"))
        first = await front_door_posts.due(connection, at.id)
        assert first is not None
        assert first.id == status.id
        await front_door_posts.withdraw(connection, at.id, "status:")
        then = await front_door_posts.due(connection, at.id)
    assert then is not None
    assert then.name == "answer"


async def test_that_a_text_could_not_be_shown_while_it_was_written_does_not_count_when_it_is_whole(
    database: Database,
) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        await front_door_posts.intend(connection, at, WORKSPACE, "answer", Text(markdown="hel", live_for="U01ALICE"))
        due = await front_door_posts.due(connection, at.id)
        assert due is not None
        counted = [await front_door_posts.stumbled(connection, due.id) for _ in range(3)]
        assert [each.failures for each in counted if each] == [1, 2, 3]
        await front_door_posts.finish(connection, at.id, "answer", Text(markdown="hello"))
        once = await front_door_posts.stumbled(connection, due.id)
    assert once is not None
    assert once.failures == 1


async def test_a_thread_that_became_another_session_has_no_more_of_the_one_that_it_left(
    database: Database, session_id: str, say: Say
) -> None:
    (event,) = await say("hello")
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        assert await front_door_threads.with_news(connection, at.id) is None
        await front_door_threads.opened(connection, at.id, session_id)
        news = await front_door_threads.with_news(connection, at.id)
        assert news is not None
        assert (news.session_id, news.seen_seq) == (session_id, 0)
        assert await front_door_threads.seen(connection, at.id, session_id, event.seq - 1), "there is more"
        assert not await front_door_threads.seen(connection, at.id, session_id, event.seq)
        assert await front_door_threads.with_news(connection, at.id) is None
        await front_door_threads.choose(connection, at.id, None)
        assert not await front_door_threads.seen(connection, at.id, session_id, 0), "whoever follows it is through"


async def test_a_message_that_became_whole_while_its_change_was_declined_is_not_given_up(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        await front_door_posts.intend(connection, at, WORKSPACE, "answer", Text(markdown="hel", live_for="U01ALICE"))
        due = await front_door_posts.due(connection, at.id)
        assert due is not None
        await front_door_posts.posted(connection, due.id, "2.0", revision=0)
        await front_door_posts.finish(connection, at.id, "answer", Text(markdown="hello"))
        assert not await front_door_posts.failed(connection, due)
        whole = await front_door_posts.due(connection, at.id)
    assert whole is not None
    assert (whole.state, whole.remote, whole.body) == ("posted", "2.0", Text(markdown="hello"))


async def test_what_comes_instead_of_a_message_comes_when_that_one_would_have(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        declined = await intended(connection, at)
        for name in ("file:1", "file:2"):
            await front_door_posts.intend(connection, at, WORKSPACE, name, Attachment(name=name, file_id=name))
        assert await front_door_posts.failed(connection, declined)
        for name in ("head", "whole"):
            body = Text(markdown=name)
            await front_door_posts.intend(connection, at, WORKSPACE, name, body, instead_of=declined.id)
        names: list[str] = []
        while due := await front_door_posts.due(connection, at.id):
            names.append(due.name)
            await front_door_posts.given_up(connection, due.id)
    assert names == ["head", "whole", "file:1", "file:2"]


async def test_a_message_that_nobody_can_read_is_left_and_hides_no_other(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        due = await intended(connection, at, "card:1")
        await intended(connection, at, "card:2")
        await connection.execute("UPDATE front_door_posts SET body = '{}' WHERE id = %s", (due.id,))
        with pytest.raises(UnreadablePostError) as unreadable:
            await front_door_posts.due(connection, at.id)
        assert unreadable.value.post_id == due.id
        assert list(await front_door_posts.bodies(connection, at.id, "card:")) == ["card:2"]
        for times in (1, 2):
            stumble = await front_door_posts.stumbled(connection, due.id)
            assert stumble is not None
            assert (stumble.name, stumble.failures) == ("card:1", times)
        await front_door_posts.given_up(connection, due.id)
        then = await front_door_posts.due(connection, at.id)
    assert then is not None
    assert then.name == "card:2"


async def test_failures_at_one_event_are_counted_in_a_row(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        counted = [await front_door_threads.stumbled(connection, at.id, seq) for seq in (7, 7, 8, 8, 8, 7)]
    assert counted == [1, 2, 1, 2, 3, 1]


async def thread_of(connection: Connection, due: DuePost) -> str:
    cursor = await connection.execute("SELECT thread_id FROM front_door_posts WHERE id = %s", (due.id,))
    row = await cursor.fetchone()
    assert row is not None
    return row["thread_id"]


async def test_only_what_was_named_is_looked_at(database: Database) -> None:
    async with database.transaction(WORKSPACE) as connection:
        door = await make_door(connection)
        first, second = [await make_thread(connection, door, thread=f"{n}.0") for n in (1, 2)]
        everything = await front_door_threads.with_work(connection, door.id)
        named = await front_door_threads.with_work(connection, door.id, Among(threads={second.id}))
        nothing = await front_door_threads.with_work(connection, door.id, Among(sessions={"sesn_unknown"}))
    assert [each.id for each in everything] == [first.id, second.id]
    assert [each.id for each in named] == [second.id]
    assert nothing == []


async def test_what_was_sent_a_day_ago_is_known_again_without_its_key(
    database: Database, session_id: str, say: Say
) -> None:
    await say("Alice says: once")
    async with database.transaction(WORKSPACE) as connection:
        at = await make_thread(connection, await make_door(connection))
        item = await front_door_inbox.next_item(connection, at)
        assert item is not None
        content = [{"type": "text", "text": "Alice says: once"}]
        await front_door_inbox.plan(connection, item.id, {"events": [{"type": "user.message", "content": content}]})
        await connection.execute("UPDATE front_door_inbox SET received_at = now() - interval '1 day'")
        of = {"front_door": at.front_door_id, "place": at.place, "thread": at.thread}
        planned = await front_door_inbox.next_item(connection, at)
        assert planned is not None
        assert await front_door_threads.made_before(connection, at, seconds=planned.age_seconds) is None
        await connection.execute("UPDATE sessions SET metadata = %s", (Jsonb(of),))
        assert await front_door_threads.made_before(connection, at, seconds=planned.age_seconds) == session_id
        assert await front_door_inbox.told_before(connection, session_id, planned)
        content = [{"type": "text", "text": "Alice says: twice"}]
        other = planned.model_copy(update={"request": {"events": [{"content": content}]}})
        assert not await front_door_inbox.told_before(connection, session_id, other)
