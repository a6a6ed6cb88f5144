"""Claude Agent SDK: the agent that the package carries, one process for each session."""

from harness_adapters.claude_agent_sdk.process import kind

__all__ = ["kind"]
