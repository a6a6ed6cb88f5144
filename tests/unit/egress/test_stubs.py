"""Stubs are found and swapped, whatever surrounds them."""

import base64
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.contract import Binding, GrantedCredential
from sandbox.egress.rules import RefusedError
from sandbox.egress.stubs import (
    Secret,
    StubScanner,
    mentioned,
    mentioned_in,
    swap_body,
    swap_headers,
    swap_target,
)

_STUB = b"bhstub_0123456789ABCDEFGHIJabcdef"
_NEAR = st.sampled_from([b"bhstub_", b"bhstub_012", b"bh", b"b", b"stub_", b"bhstub_0123456789ABCDEFGHIJa"])


def _secret(value: bytes = b"s3cret", **binding: object) -> dict[bytes, Secret]:
    bound = Binding.model_validate({"hosts": ["api.test"], **binding})
    credential = GrantedCredential(credential_id="vcrd_1", name="TOKEN", stub=_STUB.decode(), binding=bound)
    return {_STUB: Secret(credential, value)}


def _chunks(data: bytes, borders: list[int]) -> list[bytes]:
    cuts = sorted({0, len(data), *(each % (len(data) + 1) for each in borders)})
    return [data[start:end] for start, end in pairwise(cuts)]


@given(st.binary(max_size=60), st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=12))
def test_a_stub_is_found_wherever_the_borders_are(before: bytes, after: bytes, borders: list[int]) -> None:
    scanner, passed = StubScanner(), b""
    with pytest.raises(RefusedError):
        for chunk in _chunks(before + _STUB + after, borders):
            passed += scanner.feed(chunk)
    assert _STUB[:29] not in passed


@given(
    st.lists(st.one_of(st.binary(max_size=20), _NEAR.map(lambda each: each + b"-")), max_size=8),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_what_is_no_stub_passes_unchanged(parts: list[bytes], borders: list[int]) -> None:
    data, scanner = b"".join(parts), StubScanner()
    passed = b"".join(scanner.feed(chunk) for chunk in _chunks(data, borders))
    assert passed + scanner.finish() == data


@given(
    st.lists(
        st.one_of(_NEAR, st.just(_STUB), st.binary(max_size=6), st.sampled_from([b"-", b"Z" * 21])), max_size=10
    ),
    st.lists(st.integers(0, 400), max_size=16),
)
def test_borders_change_nothing(parts: list[bytes], borders: list[int]) -> None:
    """What the chunks come to is what the whole comes to, and of a stub no border lets the recognisable part pass."""
    data, scanner, passed, refused = b"".join(parts), StubScanner(), b"", False
    try:
        for chunk in _chunks(data, borders):
            passed += scanner.feed(chunk)
        passed += scanner.finish()
    except RefusedError:
        refused = True
    assert refused == bool(mentioned_in(data))
    assert data.startswith(passed)
    assert refused or passed == data
    assert not mentioned_in(passed)


@given(st.binary(max_size=100))
def test_little_is_held_back(data: bytes) -> None:
    scanner = StubScanner()
    assert len(data) - len(scanner.feed(data)) <= 28


@pytest.mark.parametrize(
    ("name", "value", "swapped"),
    [
        (b"Authorization", b"Bearer %b", b"Bearer s3cret"),
        (b"authorization", b"token %b", b"token s3cret"),
        (b"Authorization", b"%b", b"s3cret"),
        (b"X-Api-Key", b"%b", b"s3cret"),
        (b"x-goog-api-key", b"%b", b"s3cret"),
        (b"PRIVATE-TOKEN", b"%b", b"s3cret"),
        (b"X-Vault-Token", b"%b", b"s3cret"),
        (b"Ocp-Apim-Subscription-Key", b"%b", b"s3cret"),
        (b"apikey", b"%b", b"s3cret"),
        (b"Authorization", b'Token token="%b"', b'Token token="s3cret"'),
    ],
)
def test_headers_for_credentials_are_swapped(name: bytes, value: bytes, swapped: bytes) -> None:
    assert swap_headers([(name, value % _STUB)], _secret()) == [(name, swapped)]


@pytest.mark.parametrize("pair", [b"me:%b", b":%b", b"%b:", b"%b:x-oauth-basic"])
def test_basic_is_swapped(pair: bytes) -> None:
    value = b"Basic " + base64.b64encode(pair % _STUB)
    assert mentioned([(b"Authorization", value)], b"/") == {_STUB}
    (_, found), *_ = swap_headers([(b"Authorization", value)], _secret())
    assert base64.b64decode(found.removeprefix(b"Basic ")) == pair % b"s3cret"


@pytest.mark.parametrize(
    "name", [b"Idempotency-Key", b"Sec-WebSocket-Key", b"Accept", b"Mcp-Session-Id", b"X-Author"]
)
def test_other_headers_are_left_alone(name: bytes) -> None:
    assert swap_headers([(name, b"abc")], _secret()) == [(name, b"abc")]


def test_a_query_parameter_is_swapped_where_the_binding_says() -> None:
    target = b"/a?x=1&key=" + _STUB
    assert swap_target(target, _secret(b"s &=", query_parameter="key")) == b"/a?x=1&key=s%20%26%3D"


@given(st.text(min_size=1))
def test_a_body_is_swapped_in_its_own_notation(secret: str) -> None:
    known = _secret(secret.encode(errors="surrogatepass"), body=True)
    if "\ud800" <= max(secret) <= "\udfff":
        return
    document = swap_body(b'{"a": "' + _STUB + b'"}', b"application/json; charset=utf-8", known)
    assert json.loads(document) == {"a": secret}
    form = swap_body(b"a=" + _STUB + b"&b=c", b"application/x-www-form-urlencoded", known)
    assert form == f"a={quote(secret, safe='')}&b=c".encode()
