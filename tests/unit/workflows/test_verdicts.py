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


def test_a_policy_by_default_holds_for_tools_that_have_no_configuration_of_their_own() -> None:
    toolset = {
        "type": "agent_toolset_20260401",
        "default_config": {"permission_policy": {"type": "always_ask"}},
        "configs": [{"name": "read", "permission_policy": {"type": "always_allow"}}],
    }
    assert set(denials([toolset])) == {"bash", "write", "edit", "glob", "grep"}
