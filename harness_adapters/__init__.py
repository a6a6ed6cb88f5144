"""Harness adapters: the loops that turn a session's history and a model into the next events."""
