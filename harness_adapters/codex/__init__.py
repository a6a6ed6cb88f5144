"""Codex: its app-server, many sessions in one process."""

from harness_adapters.codex.process import kind

__all__ = ["kind"]
