"""Long texts are looked through elsewhere, and with an end."""

import pytest

from controlplane.redaction.apart import LONG_CHARACTERS, scrubbed
from controlplane.redaction.marks import mark_of

KEY = b"k" * 32
SECRET = 'a vault\'s "own"\nvalue'


@pytest.mark.parametrize("length", [0, LONG_CHARACTERS])
async def test_a_long_text_is_scrubbed_as_a_short_one_is(length: int) -> None:
    text = f"{SECRET} and ghp_{'a1B2' * 9} {'x ' * (length // 2)}\ud800"
    done = await scrubbed(text, key=KEY, known=[mark_of(KEY, SECRET)], guess=False)
    assert done.kinds == ("a secret of the vault", "GitHub Token")
    assert SECRET not in done.text
    assert "ghp_" not in done.text
    assert done.text.endswith("\ud800")


async def test_what_takes_too_long_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        await scrubbed("x " * LONG_CHARACTERS, key=KEY, known=[], guess=True, seconds=0.01)
