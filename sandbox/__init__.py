"""Sandboxes: where an agent's commands run."""
