"""What is planted to be found, and the sandboxes to plant it in."""

from dataclasses import dataclass

import pytest

from tests.support.canary import Canary, Seeker
from tests.support.sandboxes import box, make_provider, pods_namespace, provider

__all__ = ["box", "make_provider", "pods_namespace", "provider"]


@dataclass
class Sown:
    """A text in which there is one secret in each form, and who looks for them."""

    data: bytes
    seeker: Seeker

    @classmethod
    def anew(cls) -> "Sown":
        """Make secrets that are nowhere yet."""
        secrets = [Canary(form) for form in Canary("any").forms()]
        return cls(b"\n".join(each.forms()[each.name] for each in secrets), Seeker(*secrets))

    @property
    def text(self) -> str:
        """The same as text."""
        return self.data.decode()

    def all_found(self, start: str, part: str = "") -> None:
        """Fail unless each form was found in a place whose name starts and goes on like this."""
        here = {each for each in self.seeker.sightings if each.place.startswith(start) and part in each.place}
        assert {each.secret for each in here} == set(Canary("any").forms()), sorted(map(str, self.seeker.sightings))


@pytest.fixture
def sown() -> Sown:
    """Secrets that are nowhere yet."""
    return Sown.anew()
