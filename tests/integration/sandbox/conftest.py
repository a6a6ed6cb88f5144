"""The same sandboxes for the contract and for the attacks."""

from tests.support.house import hands, house, house_provider, open_house
from tests.support.sandboxes import box, make_provider, pods_namespace, provider

__all__ = ["box", "hands", "house", "house_provider", "make_provider", "open_house", "pods_namespace", "provider"]
