from workflows.verdicts import denials


def test_a_tool_that_needs_approval_is_refused_and_the_others_are_not() -> None:
    toolset = {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": {"type": "always_allow"}},
        "configs": [
            {"name": "bash", "permission_policy": {"type": "always_ask"}},
            {"name": "read", "permission_policy": {"type": "always_allow"}},
        ],
    }
    assert set(denials([toolset])) == {"bash"}


def test_a_custom_tool_is_refused() -> None:
    assert set(denials([{"type": "custom", "name": "lookup", "input_schema": {}}])) == {"lookup"}
