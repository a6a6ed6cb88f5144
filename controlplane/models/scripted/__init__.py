"""The scripted model: a deterministic stand-in for demos and tests, served over the real wire formats."""

from controlplane.models.scripted.server import create_scripted, scripted_providers

__all__ = ["create_scripted", "scripted_providers"]
