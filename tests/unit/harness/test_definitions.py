"""What an agent's `tools` come to."""

from harness_adapters.toolset import MEMORY_TOOLS, definitions, is_custom

TOOLSET = "agent_toolset_20260401"
BOTH = ["sandbox_provision", "sandbox_execute"]


def _names(tools: list[dict[str, object]]) -> list[str]:
    return [tool.name for tool in definitions(tools)]


def test_an_agent_without_tools_has_the_two_sandbox_tools():
    assert _names([]) == BOTH


def test_the_toolset_adds_its_tools_after_the_two():
    assert _names([{"type": TOOLSET}]) == [*BOTH, "bash", "read", "write", "edit", "glob", "grep"]


def test_a_tool_that_its_config_disables_is_not_shown():
    assert "bash" not in _names([{"type": TOOLSET, "configs": [{"name": "bash", "enabled": False}]}])


def test_a_default_that_disables_leaves_what_a_config_enables():
    configs = [{"name": "read", "enabled": True}, {"name": "grep", "enabled": None}]
    assert _names([{"type": TOOLSET, "default_config": {"enabled": False}, "configs": configs}]) == [*BOTH, "read"]


def test_custom_tools_are_shown_with_their_schema():
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = definitions([{"type": "custom", "name": "weather", "description": "Now.", "input_schema": schema}])
    assert tools[-1].name == "weather"
    assert tools[-1].input_schema == schema


def test_a_custom_tool_cannot_take_the_name_of_a_sandbox_tool():
    taken = {"type": "custom", "name": "sandbox_execute", "description": "mine", "input_schema": {"type": "object"}}
    assert [tool.description for tool in definitions([taken])] == [tool.description for tool in definitions([])]


def test_the_tools_for_memory_come_with_memory():
    assert not set(MEMORY_TOOLS) & set(_names([]))
    assert [tool.name for tool in definitions([], memory=True)] == [*BOTH, *MEMORY_TOOLS]


def test_a_custom_tool_keeps_its_name_beside_memory():
    own = {"type": "custom", "name": "save_memory", "description": "mine", "input_schema": {"type": "object"}}
    found = {tool.name: tool for tool in definitions([own], memory=True)}
    assert found["save_memory"].description == "mine" and is_custom(found["save_memory"])
    assert set(found) == {*BOTH, *MEMORY_TOOLS} and not is_custom(found["memory_read"])
