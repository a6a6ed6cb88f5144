"""Codex: its app-server, many sessions in one process."""

from harness_adapters.codex.process import VERSION, kind

__all__ = ["VERSION", "kind"]
