"""A conversation that outgrows the model's context goes on, and keeps its originals."""

from tests.support.client import Client, run, script, text

TOO_LONG = {"status": 400, "message": "prompt is too long: 300000 tokens > 200000 maximum"}


async def test_a_summary_stands_for_the_older_part_and_the_originals_stay(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, "long ago " * 2000)
        await watcher.until_idle()
        steps = (run("echo one >> effects"), {"text": "after {{result}}", "fail": TOO_LONG, **run("wc -l < effects")})
        await client.say(session_id, script(*steps, {"text": "lines: {{result}}"}))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).strip() == "lines: 1"
        (compacted,) = watcher.of("agent.thread_context_compacted")
        assert compacted["summary"].startswith("Notes on")
        assert compacted["tokens_before"] > 4000
        sizes = [
            end["model_usage"]["input_tokens"] for end in watcher.of("span.model_request_end") if not end["is_error"]
        ]
        await client.say(session_id, script({"text": "much later"}))
        await watcher.until_idle(times=3)
        assert watcher.of("span.model_request_end")[-1]["model_usage"]["input_tokens"] < sizes[0] / 4
        listed = (await client.get(f"/v1/sessions/{session_id}/events", limit="1000"))["data"]
    assert listed[0]["content"][0]["text"].startswith("long ago")
    assert [event["id"] for event in listed] == [event["id"] for event in watcher.events]
