"""The same sandboxes for the contract and for the attacks."""

from tests.support.house import house, open_house
from tests.support.sandboxes import box, make_provider, provider

__all__ = ["box", "house", "make_provider", "open_house", "provider"]
