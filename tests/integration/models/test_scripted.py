"""The scripted model as the public SDK and plain HTTP see it, through the gateway."""

import json
from typing import Any

import httpx
import pytest
from anthropic import APIStatusError, AsyncAnthropic

from tests.integration.models.conftest import Gateway

STEPS: list[dict[str, Any]] = [
    {
        "thinking": "I should look at this first, carefully.",
        "text": "Let me look at two things.",
        "tools": [
            {"name": "sandbox_execute", "input": {"command": "echo 'ünï' | wc -c"}},
            {"name": "sandbox_execute", "input": {"command": "true"}},
        ],
        "chunk_chars": 5,
    },
    {"text": "It said {{result}}."},
]


def script(*steps: dict[str, Any]) -> str:
    """Return a message that holds a script."""
    return f"```script\n{json.dumps(steps)}\n```"


def _client(gateway: Gateway) -> AsyncAnthropic:
    return AsyncAnthropic(
        base_url=gateway.url, api_key=gateway.token, max_retries=0, _strict_response_validation=True
    )


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_public_sdk_reads_both_forms_of_an_answer_alike(gateway: Gateway, streamed: bool):
    asked: dict[str, Any] = {"model": "scripted/x", "max_tokens": 100}
    messages: list[Any] = [{"role": "user", "content": script(*STEPS)}]
    async with _client(gateway) as client:
        if streamed:
            async with client.messages.stream(**asked, messages=messages) as stream:
                answer = await stream.get_final_message()
        else:
            answer = await client.messages.create(**asked, messages=messages)
        thinking, text, first, second = answer.content
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": said}
            for use, said in ((first, " 6\n"), (second, ""))
            if use.type == "tool_use"
        ]
        content = [block.model_dump(exclude_none=True) for block in answer.content]
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
        final = await client.messages.create(**asked, messages=messages)
    assert (answer.model, answer.stop_reason) == ("scripted/x", "tool_use")
    assert thinking.type == "thinking" and thinking.thinking == STEPS[0]["thinking"]
    assert thinking.signature.startswith("scripted-")
    assert text.type == "text" and text.text == STEPS[0]["text"]
    assert first.type == "tool_use" and first.input == {"command": "echo 'ünï' | wc -c"}
    assert answer.usage.output_tokens > 10
    assert [block.text for block in final.content if block.type == "text"] == ["It said 6."]
    assert final.stop_reason == "end_turn"


async def test_anthropics_stream_has_the_frames_of_a_real_one(gateway: Gateway):
    body = {"model": "scripted/x", "max_tokens": 9, "stream": True}
    body["messages"] = [{"role": "user", "content": script(*STEPS)}]
    answer = await gateway.http.post(gateway.url + "/v1/messages", json=body, headers=gateway.key)
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    deltas = {frame["delta"]["type"] for frame in frames if frame["type"] == "content_block_delta"}
    assert names == [frame["type"] for frame in frames]
    assert (names[0], names[1], names[-2], names[-1]) == ("message_start", "ping", "message_delta", "message_stop")
    assert deltas == {"thinking_delta", "signature_delta", "text_delta", "input_json_delta"}
    pieces = [frame["delta"]["partial_json"] for frame in frames if frame.get("delta", {}).get("partial_json")]
    assert len(pieces) > 4


async def test_openais_stream_has_the_chunks_of_a_real_one(gateway: Gateway):
    body = {"model": "scripted/openai-demo", "stream": True, "stream_options": {"include_usage": True}}
    body["messages"] = [{"role": "user", "content": script(*STEPS)}]
    answer = await gateway.http.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.key)
    lines = [line[6:] for line in answer.text.splitlines() if line]
    chunks = [json.loads(line) for line in lines[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    arguments = ["".join(call["function"]["arguments"] for call in calls if call["index"] == n) for n in (0, 1)]
    assert lines[-1] == "[DONE]"
    assert {chunk["model"] for chunk in chunks} == {"scripted/openai-demo"}
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == STEPS[0]["text"]
    assert [json.loads(each) for each in arguments] == [call["input"] for call in STEPS[0]["tools"]]
    assert [call["function"]["name"] for call in calls if "id" in call] == ["sandbox_execute"] * 2
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 10


async def test_openais_whole_answer_carries_the_calls(gateway: Gateway):
    body = {"model": "scripted/openai-demo", "messages": [{"role": "user", "content": script(*STEPS)}]}
    answer = await gateway.http.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.key)
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(choice["message"]["tool_calls"][1]["function"]["arguments"]) == {"command": "true"}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one message"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "must be non-empty"),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "n", "input": {}}]},
                {"role": "user", "content": "no result"},
            ],
            "without `tool_result` blocks immediately after: t1",
        ),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "b", "signature": "scripted-0"}]},
            ],
            "cannot be modified",
        ),
    ],
)
async def test_anthropics_side_refuses_what_the_real_one_refuses(
    gateway: Gateway, messages: list[dict[str, Any]], said: str
):
    body = {"model": "scripted/x", "max_tokens": 9, "messages": messages}
    answer = await gateway.http.post(gateway.url + "/v1/messages", json=body, headers=gateway.key)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


async def test_openais_side_refuses_a_call_without_its_result(gateway: Gateway):
    call = {"id": "c1", "type": "function", "function": {"name": "n", "arguments": "{}"}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "x"}]
    body = {"model": "scripted/openai-demo", "messages": messages}
    answer = await gateway.http.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.key)
    assert answer.status_code == 400
    assert "c1" in answer.json()["error"]["message"]


async def test_it_fails_with_the_status_and_the_retry_after_that_the_script_asks_for(gateway: Gateway):
    fail = {"status": 429, "retry_after_seconds": 3, "message": "slow down"}
    messages: list[Any] = [{"role": "user", "content": script({"text": "ok", "fail": fail})}]
    async with _client(gateway) as client:
        with pytest.raises(APIStatusError) as refused:
            await client.messages.create(model="scripted/x", max_tokens=9, messages=messages)
        answer = await client.messages.create(model="scripted/x", max_tokens=9, messages=messages)
    assert (refused.value.status_code, refused.value.response.headers["retry-after"]) == (429, "3")
    assert answer.content[0].type == "text" and answer.content[0].text == "ok"


async def test_a_stream_is_cut_where_the_script_says(gateway: Gateway):
    step = {"text": "x" * 50, "chunk_chars": 5, "fail": {"after_chunks": 2}}
    body = {"model": "scripted/x", "max_tokens": 9, "stream": True}
    body["messages"] = [{"role": "user", "content": script(step)}]
    came: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        async with gateway.http.stream(
            "POST", gateway.url + "/v1/messages", json=body, headers=gateway.key
        ) as answer:
            async for line in answer.aiter_lines():
                came.append(line)
    assert sum("text_delta" in line for line in came) == 2
