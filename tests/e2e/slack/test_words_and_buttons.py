"""Words, reactions, buttons and cards, and who may press them."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.e2e.test_approvals import asking, call, calls_of
from tests.support.client import run, script
from tests.support.emulator import ALICE, BOB, BOT, CAROL, DIRECT, buttons, shown
from tests.support.slack import Workspace, footed

pytestmark = pytest.mark.slow


@pytest.fixture
async def careful(slack: Workspace) -> AsyncGenerator[Workspace]:
    """A workspace whose agent asks before it uses bash."""
    agent = await slack.client.post(
        "/v1/agents", {"name": "careful", "model": "scripted/test", "tools": [asking("bash")]}
    )
    async with slack.ruled(agent_id=agent["id"], deciders=None, people=None, places={}):
        yield slack


async def replied(slack: Workspace, channel: str, thread: str, words: str) -> str:
    """Wait for a message of ours that says something, and return what it says."""

    async def found() -> str | None:
        for each in await slack.slack.thread(channel, thread):
            if words in shown(each):
                return shown(each)
        return None

    return await slack.until(found, words)


async def whispered(slack: Workspace, channel: str, person: str, words: str, *, threaded: bool = True) -> None:
    """Wait until a person alone is told something; in a thread without an answer Slack would show it to nobody."""

    async def found() -> bool:
        return any(
            each.get("ephemeral_to") == person and words in each["text"] and bool(each.get("thread_ts")) is threaded
            for each in await slack.slack.messages(channel)
        )

    await slack.until(found, f"{words!r} to {person}")


async def card(slack: Workspace, channel: str, thread: str, *, open_one: bool = True) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        cards = [each for each in await slack.slack.thread(channel, thread) if "Approval needed" in shown(each)]
        return next((each for each in reversed(cards) if bool(buttons(each)) is open_one), None)

    return await slack.until(found, "a card")


async def test_words_answer_in_the_thread(slack: Workspace) -> None:
    ts = await slack.slack.mention("C001", "help")
    await replied(slack, "C001", ts, "What I understand")
    await slack.slack.say("C001", "agents", thread=ts)
    await replied(slack, "C001", ts, "`helper`")
    await slack.slack.say("C001", "status", thread=ts)
    await replied(slack, "C001", ts, "no session yet")
    await slack.slack.say("C001", "use nobody", thread=ts)
    await replied(slack, "C001", ts, "no agent `nobody` answers here")


async def test_a_new_session_and_another_agent_are_a_word_away(slack: Workspace) -> None:
    await slack.client.post("/v1/agents", {"name": "second", "model": "scripted/other"})
    ts = await slack.slack.mention("C001", script({"text": "first"}))
    await slack.answers("C001", ts)
    await slack.slack.say("C001", "use second", thread=ts)
    await replied(slack, "C001", ts, "`second` answers from now on")
    await slack.slack.say("C001", script({"text": "another"}), thread=ts)
    first, *_, second = await slack.answers("C001", ts, times=2)
    assert "scripted/test" in shown(first)
    assert "scripted/other" in shown(second)
    assert shown(first).rpartition("/")[2] != shown(second).rpartition("/")[2]


async def test_what_runs_is_stopped_and_told_before_another_session_begins(slack: Workspace) -> None:
    ts = await slack.slack.mention("C001", script({"text": "I begin", **run("sleep 300")}, {"text": "never"}))
    working = await replied(slack, "C001", ts, "running `sleep 300`")
    assert "http://console.test/sesn_" in working
    await slack.slack.say("C001", "new", thread=ts)
    await slack.slack.say("C001", script({"text": "the new one"}), thread=ts)
    await replied(slack, "C001", ts, "I have stopped what was running.")
    *_, answer = await slack.answers("C001", ts)
    assert shown(answer).startswith("the new one")
    said = "\n".join(shown(each) for each in await slack.slack.thread("C001", ts))
    assert "I begin" in said
    assert "sleep 300" not in said, "no status of the old one is left"


async def test_what_was_still_to_begin_is_stopped_before_another_session_begins(slack: Workspace) -> None:
    ts = await slack.slack.mention("C001", script(run("sleep 300"), {"text": "never"}))
    await slack.slack.say("C001", "new", thread=ts)
    await slack.slack.say("C001", script({"text": "the new one"}), thread=ts)
    *_, answer = await slack.answers("C001", ts)
    assert shown(answer).startswith("the new one")
    found = (await slack.client.get("/v1/sessions", limit="10"))["data"]
    first, second = sorted(each["created_at"] for each in found if each["metadata"].get("thread") == ts)
    (left,) = [each for each in found if each["created_at"] == first]
    assert left["status"] == "idle", "it does not run where nobody sees it"
    assert second > first


async def test_a_card_is_closed_before_another_session_begins(careful: Workspace) -> None:
    ts = await careful.slack.mention("C003", script(run("echo x"), {"text": "never"}))
    await card(careful, "C003", ts)
    await careful.slack.say("C003", "new", thread=ts)
    await card(careful, "C003", ts, open_one=False)
    await careful.slack.say("C003", script({"text": "the new one"}), thread=ts)
    *_, answer = await careful.answers("C003", ts)
    assert shown(answer).startswith("the new one")


async def test_a_session_that_is_refused_leaves_nothing_to_the_next(slack: Workspace) -> None:
    ts = await slack.slack.mention("C003", "help")
    await replied(slack, "C003", ts, "What I understand")
    gone = await slack.client.post("/v1/environments", {"name": "gone", "config": {"type": "cloud"}})
    async with slack.ruled(environment_id=gone["id"]):
        await slack.client.post(f"/v1/environments/{gone['id']}/archive")
        await slack.slack.say("C003", script({"text": "refused"}), thread=ts)
        await replied(slack, "C003", ts, ":warning:")
    await slack.slack.say("C003", script({"text": "taken"}), thread=ts)
    *_, answer = await slack.answers("C003", ts)
    assert shown(answer).startswith("taken")


async def test_the_message_itself_may_name_the_agent(slack: Workspace) -> None:
    await slack.client.post("/v1/agents", {"name": "named", "model": "scripted/named"})
    ts = await slack.slack.mention("C001", "agent=named " + script({"text": "it is me"}))
    (answer,) = await slack.answers("C001", ts)
    assert "scripted/named" in shown(answer)


async def test_who_is_to_answer_is_asked_where_nothing_says_so(slack: Workspace) -> None:
    chosen = (await slack.client.post("/v1/agents", {"name": "chosen", "model": "scripted/chosen"}))["id"]
    few = {"C001": {"agent_ids": [slack.front_door["rules"]["agent_id"], chosen]}}
    async with slack.ruled(agent_id=None, places=few):
        ts = await slack.slack.mention("C001", script({"text": "at last"}))

        async def picker() -> dict[str, Any] | None:
            return next((each for each in await slack.slack.thread("C001", ts) if buttons(each)), None)

        asked = await slack.until(picker, "the picker")
        button = next(each for each in buttons(asked) if each["text"]["text"] == "chosen")
        await slack.slack.press(asked, button["action_id"].partition(":")[2])
        (*_, answer) = await slack.answers("C001", ts)
        assert "scripted/chosen" in shown(answer)


@pytest.mark.parametrize(
    "how", ["word", *(pytest.param(each, marks=pytest.mark.slow) for each in ("reaction", "button"))]
)
async def test_what_runs_is_stopped(slack: Workspace, how: str) -> None:
    ts = await slack.slack.mention("C002", script(run("sleep 300"), {"text": "never"}))
    await replied(slack, "C002", ts, "running `sleep 300`")
    if how == "word":
        await slack.slack.say("C002", "stop", thread=ts)
    elif how == "reaction":
        left_alone = await slack.slack.say("C002", "<@U02BOB> look at this", thread=ts)
        await slack.slack.react("C002", left_alone, "x")
    else:
        (status,) = [each for each in await slack.slack.thread("C002", ts) if "running" in shown(each)]
        await slack.slack.press(status, "stop", user=BOB)

    async def gone() -> bool:
        return not [each for each in await slack.slack.thread("C002", ts) if "running" in shown(each)]

    await slack.until(gone, "the status taken away")
    await slack.slack.say("C002", script({"text": "the next"}), thread=ts)
    await slack.answers("C002", ts)
    assert "never" not in str(await slack.slack.thread("C002", ts))


async def test_a_message_while_a_turn_runs_is_told_what_becomes_of_it(slack: Workspace) -> None:
    ts = await slack.slack.mention("C002", script(run("sleep 300"), {"text": "never"}))
    await replied(slack, "C002", ts, "running")
    await slack.slack.say("C002", script({"text": "the second"}), thread=ts, user=BOB)
    await whispered(slack, "C002", BOB, "waits until I am through")
    await slack.slack.say("C002", "stop", thread=ts)
    (answer,) = [each for each in await slack.answers("C002", ts) if footed(each)]
    assert shown(answer).startswith("the second")


async def test_now_goes_into_what_runs(slack: Workspace) -> None:
    ts = await slack.slack.mention("C002", script(run("sleep 15"), {"text": "the old way"}))
    await replied(slack, "C002", ts, "running")
    await slack.slack.say("C002", "now: " + script({"text": "the new way"}), thread=ts)
    await whispered(slack, "C002", ALICE, "goes into what I am doing")
    (answer,) = [each for each in await slack.answers("C002", ts) if "way" in shown(each)]
    assert shown(answer).startswith("the new way")


async def test_a_failed_session_is_resumed_by_its_button(slack: Workspace) -> None:
    failing = {"fail": {"status": 400, "times": 1}, "text": "after all"}
    ts = await slack.slack.mention("C001", script(failing))
    await replied(slack, "C001", ts, "The turn failed")
    (trouble,) = [each for each in await slack.slack.thread("C001", ts) if buttons(each)]
    await slack.slack.press(trouble, "resume", user=BOB)
    (answer,) = [each for each in await slack.answers("C001", ts) if "after all" in shown(each)]
    assert shown(answer).startswith("after all")


async def test_a_call_is_allowed_by_who_clicks(careful: Workspace) -> None:
    steps = script({"tools": [call("bash", command="echo it ran")]}, {"text": "says {{result}}"})
    ts = await careful.slack.mention("C001", steps)
    asked = await card(careful, "C001", ts)
    assert '"command": "echo it ran"' in shown(asked)
    await replied(careful, "C001", ts, "waiting for approval …")
    await careful.slack.say("C001", script({"text": "later"}), thread=ts, user=CAROL)
    await whispered(careful, "C001", CAROL, "first somebody has to decide about the call above")
    await careful.slack.press(asked, "allow", user=BOB)
    *_, answer, later = await careful.answers("C001", ts, times=2)
    assert "says it ran" in shown(answer)
    assert shown(later).startswith("later")
    assert "waiting for approval" not in str(await careful.slack.thread("C001", ts)), "it is decided"
    done = await card(careful, "C001", ts, open_one=False)
    assert "allowed by Bob Brown (slack U02BOB)" in shown(done)
    session_id = shown(answer).rpartition("/")[2]
    (row,) = await calls_of(careful.client, session_id)
    assert row["decided_by"].endswith(" for Bob Brown (slack U02BOB)")
    assert row["decided_by"].startswith("key_")


async def test_a_call_that_nobody_decides_about_in_time_closes_its_card(careful: Workspace) -> None:
    scope = careful.front_door["rules"]["agent_id"]
    await careful.client.post(
        "/v1/rules", {"scope": scope, "tool": "bash", "verdict": "ask", "expires_after_seconds": 4}
    )
    ts = await careful.slack.mention(
        "C001", script({"tools": [call("bash", command="touch ran")]}, {"text": "{{result}}"})
    )
    (*_, answer) = await careful.answers("C001", ts)
    assert "nobody decided about this call until" in shown(answer)
    closed = await card(careful, "C001", ts, open_one=False)
    assert "denied by nobody in time" in shown(closed)


async def test_a_call_is_denied_for_a_reason_that_the_agent_is_told(careful: Workspace) -> None:
    steps = script({"tools": [call("bash", command="rm -rf build")]}, {"text": "told: {{result}}"})
    ts = await careful.slack.mention("C001", steps)
    await careful.slack.press(await card(careful, "C001", ts), "deny_reason", user=BOB)

    async def asked() -> bool:
        return any(each["summary"] == "views.open" for each in await careful.slack.log())

    await careful.until(asked, "the form")
    await careful.slack.submit({"reason": {"reason": {"type": "plain_text_input", "value": "keep it"}}}, user=BOB)
    await replied(careful, "C001", ts, "denied by Bob Brown (slack U02BOB): keep it")
    *_, answer = await careful.answers("C001", ts)
    assert "a person denied this call: keep it" in shown(answer)


async def test_a_call_is_denied_and_another_allowed_for_the_session(careful: Workspace) -> None:
    again = {"tools": [call("bash", command="echo again")]}
    ts = await careful.slack.mention("C001", script(again, {"text": "{{result}}"}))
    await careful.slack.press(await card(careful, "C001", ts), "deny")
    await replied(careful, "C001", ts, "denied by Alice Anderson")
    await careful.answers("C001", ts)
    await careful.slack.say("C001", script(again, again, {"text": "both ran: {{result}}"}), thread=ts)
    await careful.slack.press(await card(careful, "C001", ts), "allow_session")
    await replied(careful, "C001", ts, "both ran: again")


async def test_the_clicker_is_authorised_at_the_click(careful: Workspace) -> None:
    steps = script({"tools": [call("bash", command="echo secret")]}, {"text": "done"})
    ts = await careful.slack.mention("C001", steps)
    asked = await card(careful, "C001", ts)
    await careful.rules(deciders=[CAROL])
    await careful.slack.press(asked, "allow", user=BOB)
    await whispered(careful, "C001", BOB, "you may not decide")
    assert await careful.refused("may_not_decide")
    assert buttons(await card(careful, "C001", ts)), "it still waits"
    await careful.slack.press(asked, "allow", user=CAROL)
    await replied(careful, "C001", ts, "allowed by Carol Clark")
    await careful.slack.press(asked, "deny", user=CAROL)
    await whispered(careful, "C001", CAROL, "Too late: allowed by Carol Clark")


async def test_a_forged_button_is_refused(careful: Workspace) -> None:
    steps = script({"tools": [call("bash", command="true")]}, {"text": "done"})
    ts, other = await careful.slack.mention("C001", steps), await careful.slack.mention("C001", steps)
    asked, elsewhere = await card(careful, "C001", ts), await card(careful, "C001", other)
    stolen = buttons(elsewhere)[0]["value"]
    own = buttons(asked)[0]["value"]
    forged = (stolen, own[:-1] + ("0" if own[-1] != "0" else "1"), own.partition(":")[0], "")
    before = await careful.refused("forged_button")
    for value in forged:
        await careful.slack.press(asked, "allow", user=BOB, value=value)

    async def refused() -> bool:
        return await careful.refused("forged_button") == before + len(forged)

    await careful.until(refused, "four refusals")
    await whispered(careful, "C001", BOB, "not one of ours")
    waiting = [each["id"] for each in (await careful.client.get("/v1/approvals", limit="100"))["data"]]
    assert own.partition(":")[0] in waiting


async def test_long_arguments_are_shown_whole_in_a_window(careful: Workspace) -> None:
    command = "echo " + "x" * 5000 + " end"
    ts = await careful.slack.mention("C001", script({"tools": [call("bash", command=command)]}, {"text": "done"}))
    asked = await card(careful, "C001", ts)
    assert command not in shown(asked)
    await careful.slack.press(asked, "arguments")

    async def opened() -> str | None:
        calls = [each for each in await careful.slack.log() if each["summary"] == "views.open"]
        return str(calls[-1]["detail"]) if calls else None

    view = await careful.until(opened, "the window")
    assert view.count("x") >= 5000
    assert " end" in view


async def test_a_place_is_limited_to_people_and_agents(careful: Workspace) -> None:
    helper = next(each["id"] for each in (await careful.client.get("/v1/agents"))["data"] if each["name"] == "helper")
    await careful.rules(places={"C003": {"people": [ALICE], "agent_ids": [helper], "agent_id": helper}})
    ts = await careful.slack.mention("C003", script({"text": "not for Bob"}), user=BOB)
    await whispered(careful, "C003", BOB, "you may not talk", threaded=False)
    assert await careful.refused("may_not_talk")
    await careful.slack.say("C003", script({"text": "not for us"}), thread=ts, user=ALICE)
    await careful.slack.mention("C003", "use careful", thread=ts, user=ALICE)
    await replied(careful, "C003", ts, "no agent `careful` answers here")
    allowed = await careful.slack.mention("C003", script({"text": "for Alice"}))
    (answer,) = await careful.answers("C003", allowed)
    assert shown(answer).startswith("for Alice")
    assert not [each for each in await careful.slack.thread("C003", ts) if "not for" in shown(each)]
    assert all(
        each.get("user") != BOT or "not for Bob" not in str(each) for each in await careful.slack.messages("C003")
    )


async def test_a_limit_of_a_channel_is_not_passed_in_a_conversation_of_two(careful: Workspace) -> None:
    surgeon = await careful.client.post("/v1/agents", {"name": "surgeon", "model": "scripted/surgeon"})
    await careful.rules(places={"C003": {"agent_ids": [surgeon["id"]]}})
    ts = await careful.slack.say(DIRECT, "agent=surgeon " + script({"text": "never"}))
    await replied(careful, DIRECT, ts, "no agent `surgeon` answers here")


async def test_an_agent_that_may_answer_no_more_is_not_let_go_on(careful: Workspace) -> None:
    ts = await careful.slack.mention("C001", script(run("echo x"), {"text": "never"}))
    asked = await card(careful, "C001", ts)
    await careful.rules(places={"C001": {"agent_ids": []}})
    await careful.slack.press(asked, "allow", user=BOB)
    await whispered(careful, "C001", BOB, "does not answer in this place any more")
    await careful.slack.say("C001", "resume", thread=ts, user=CAROL)
    await whispered(careful, "C001", CAROL, "does not answer in this place any more")
    assert buttons(await card(careful, "C001", ts)), "it still waits"
    await careful.slack.press(asked, "deny", user=BOB)
    await replied(careful, "C001", ts, "denied by Bob Brown")


async def test_who_writes_where_nothing_runs_is_told_why(slack: Workspace) -> None:
    agent = await slack.client.post("/v1/agents", {"name": "frozen", "model": "scripted/frozen"})
    await slack.client.post(f"/v1/agents/{agent['id']}/freeze")
    ts = await slack.slack.mention("C001", "agent=frozen " + script({"text": "thawed"}))
    assert "its agent was frozen" in await replied(slack, "C001", ts, "nothing runs")
    await slack.client.post(f"/v1/agents/{agent['id']}/thaw")
    assert (await replied(slack, "C001", ts, "thawed")).startswith("thawed")


async def test_who_writes_behind_a_spent_budget_is_told_so(slack: Workspace) -> None:
    agent = await slack.client.post("/v1/agents", {"name": "poor", "model": "scripted/poor"})
    limit = {"name": "poor", "agent_id": agent["id"], "period": "day", "max_tokens": 1}
    await slack.client.post("/v1/budgets", limit)
    ts = await slack.slack.mention("C001", "agent=poor " + script({"text": "all that there is"}))
    await slack.answers("C001", ts)
    await slack.slack.say("C001", script({"text": "never"}), thread=ts)
    await replied(slack, "C001", ts, "The turn failed")
    await slack.slack.say("C001", "and now?", thread=ts)
    assert "it is resumed at" in await replied(slack, "C001", ts, "nothing runs")


async def test_a_conversation_of_two_needs_no_mention(slack: Workspace) -> None:
    ts = await slack.slack.say(DIRECT, script({"text": "just us"}))
    await slack.answers(DIRECT, ts)
    await slack.slack.say(DIRECT, script({"text": "still us"}), thread=ts)
    first, second = await slack.answers(DIRECT, ts, times=2)
    assert [shown(each).splitlines()[0] for each in (first, second)] == ["just us", "still us"]
    assert shown(first).rpartition("/")[2] == shown(second).rpartition("/")[2]
    other = await slack.slack.say(DIRECT, script({"text": "something else"}))
    (third,) = await slack.answers(DIRECT, other)
    assert shown(third).rpartition("/")[2] != shown(first).rpartition("/")[2]


async def commanded(slack: Workspace, text: str, *, channel: str = "C004", user: str = CAROL) -> str:
    """Give the slash command and return what the person is told, who is asked to repeat it if the API is slow."""

    async def answered() -> str | None:
        before = await told_by_commands(slack, channel, user)
        await slack.slack.command(channel, text, user=user)
        found = (await told_by_commands(slack, channel, user))[len(before) :]
        return next((each for each in found if "try again in a moment" not in each), None)

    return await slack.until(answered, f"an answer to /bulkhead {text}")


async def told_by_commands(slack: Workspace, channel: str, user: str) -> list[str]:
    """Return what somebody was told outside of threads; the emulator has it when the command is through."""
    found = [each for each in await slack.slack.messages(channel) if each.get("ephemeral_to") == user]
    return [each["text"] for each in found if not each.get("thread_ts")]


async def test_the_slash_command_does_what_the_words_do(slack: Workspace) -> None:
    await slack.client.post("/v1/agents", {"name": "third", "model": "scripted/third"})
    assert "You have no thread here" in await commanded(slack, "stop")
    assert "What I understand" in await commanded(slack, "help")
    assert "`third`" in await commanded(slack, "agents")
    ts = await slack.slack.mention("C004", "agent=helper " + script(run("sleep 300"), {"text": "never"}), user=CAROL)
    await replied(slack, "C004", ts, "running `sleep 300`")
    assert "sesn_" in await commanded(slack, "status")
    assert "passed on" in await commanded(slack, "stop")

    async def gone() -> bool:
        return not [each for each in await slack.slack.thread("C004", ts) if "running" in shown(each)]

    await slack.until(gone, "what ran stopped")
    assert "passed on" in await commanded(slack, "use third")
    await replied(slack, "C004", ts, "`third` answers from now on")
    assert "passed on" in await commanded(slack, "new")
    await replied(slack, "C004", ts, "begins a new session")
    failing = {"fail": {"status": 400, "times": 1}, "text": "carried on"}
    await slack.slack.say("C004", script(failing), thread=ts, user=CAROL)
    await replied(slack, "C004", ts, "The turn failed")
    assert "passed on" in await commanded(slack, "resume")
    await replied(slack, "C004", ts, "carried on")
    assert "scripted/third" in await replied(slack, "C004", ts, "carried on")
