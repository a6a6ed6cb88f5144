"""Secrets are taken out of what passes by."""

import base64
import re
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.scrub import KnownForms, Scrubber, forms

_SECRETS = st.binary(min_size=8, max_size=40)


def _through(scrubber: Scrubber, data: bytes, borders: list[int]) -> bytes:
    cuts = sorted({0, len(data), *(each % (len(data) + 1) for each in borders)})
    passed = b"".join(scrubber.feed(data[a:b]) for a, b in pairwise(cuts))
    return passed + scrubber.finish()


@given(
    _SECRETS, st.binary(max_size=40), st.binary(max_size=40), st.lists(st.integers(0, 300), max_size=20), st.data()
)
def test_every_form_is_masked_wherever_the_borders_are(
    secret: bytes, before: bytes, after: bytes, borders: list[int], data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from(sorted(forms(secret))))
    passed = _through(Scrubber(KnownForms().of((secret,))), before + form + after, borders)
    assert form not in passed
    assert len(passed) == len(before + form + after)


@given(_SECRETS, st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=20))
def test_what_holds_no_secret_passes_unchanged(secret: bytes, data: bytes, borders: list[int]) -> None:
    if any(form in data for form in forms(secret)):
        return
    assert _through(Scrubber(KnownForms().of((secret,))), data, borders) == data


@given(_SECRETS, st.binary(max_size=10), st.binary(max_size=10))
def test_base64_is_masked_at_every_offset(secret: bytes, before: bytes, after: bytes) -> None:
    encoded = base64.b64encode(before + secret + after)
    kept = Scrubber(KnownForms().of((secret,))).mask(encoded).replace(b"*", b"")
    # What is left holds what was around the secret, and at most two of its characters on each side.
    assert len(kept) <= len(base64.b64encode(before)) + len(base64.b64encode(after)) + 4


_AGAIN: dict[str, Callable[[bytes], bytes]] = {
    "URL": lambda header: quote(header, safe="").encode(),
    "URL in small letters": lambda header: re.sub("%..", lambda each: each[0].lower(), quote(header, "")).encode(),
    "JSON of PHP": lambda header: header.replace(b"/", b"\\/"),
    "hex": lambda header: header.hex().encode(),
    "base64": base64.b64encode,
}


@pytest.mark.parametrize("again", _AGAIN.values(), ids=_AGAIN)
@pytest.mark.parametrize("secret", [b"ghp_a?b?c?d~~~f>>>?x??zz9", b"s3cr3t-Value_/+42&x"])
@pytest.mark.parametrize("user", [b"", b"x", b"xy"])
def test_a_header_with_a_password_is_masked_in_what_it_is_made(
    user: bytes, secret: bytes, again: Callable[[bytes], bytes]
) -> None:
    header = b"Basic " + base64.b64encode(user + b":" + secret)
    given = again(header)
    kept = Scrubber(KnownForms().of((secret,))).mask(given)
    around = again(b"Basic " + base64.b64encode(user + b":")) + again(b"....")
    assert len(kept.replace(b"*", b"")) < len(around) + 6


@given(st.lists(_SECRETS, max_size=3), st.binary(max_size=100))
def test_nothing_is_held_back_without_need(secrets: list[bytes], data: bytes) -> None:
    known = KnownForms().of(tuple(secrets))
    passed, masked = Scrubber(known).feed(data), Scrubber(known).mask(data)
    begun = {form[:size] for form in known for size in range(1, len(form))}
    assert len(passed) == len(data) or any(masked.endswith(each) for each in begun)


@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_a_secret_that_is_too_short_to_be_told_apart_masks_nothing(text: str) -> None:
    assert Scrubber(KnownForms().of((text.encode(),))).mask(b"abcabc") == b"abcabc"
