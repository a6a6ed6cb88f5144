"""The REST API: one module per wire resource, and what they share."""

from controlplane.api.app import create_app
from controlplane.api.parts import Readiness, Submitter
from controlplane.api.server import ApiServer

__all__ = ["ApiServer", "Readiness", "Submitter", "create_app"]
