"""OpenCode: its server, many sessions in one process."""

from harness_adapters.opencode.process import kind

__all__ = ["kind"]
