"""The same sandboxes for the contract and for the attacks."""

from tests.support.sandboxes import box, make_provider, pods_namespace, provider

__all__ = ["box", "make_provider", "pods_namespace", "provider"]
