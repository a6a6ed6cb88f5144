"""Sandboxes as Kubernetes pods: the supervisor is process 1 of any image, reached through the API server."""

from sandbox.kubernetes.options import KubernetesOptions
from sandbox.kubernetes.provider import KubernetesProvider

__all__ = ["KubernetesOptions", "KubernetesProvider"]
