"""The model gateway: the only part that sees a provider's key, and the only way to a model."""

from controlplane.models.gateway import create_gateway, serve
from controlplane.models.log import ModelLog
from controlplane.models.tokens import TurnGate, token_hash

__all__ = ["ModelLog", "TurnGate", "create_gateway", "serve", "token_hash"]
