import pytest

from controlplane.vault import cipher
from controlplane.vault.cipher import SealBrokenError

PLACE = ("secret", "wrkspc_1", "vlt_1", "vcrd_1", 1)


def test_what_is_sealed_opens_in_its_place():
    key = cipher.new_key()
    assert cipher.unseal(key, cipher.seal(key, b"hello", PLACE), PLACE) == b"hello"


@pytest.mark.parametrize(
    "elsewhere",
    [
        ("secret", "wrkspc_2", "vlt_1", "vcrd_1", 1),
        ("secret", "wrkspc_1", "vlt_2", "vcrd_1", 1),
        ("secret", "wrkspc_1", "vlt_1", "vcrd_2", 1),
        ("secret", "wrkspc_1", "vlt_1", "vcrd_1", 2),
        ("secret", "wrkspc_1", "vlt_1", "vcrd_1", "1"),
        ("secret", "wrkspc_1", "vlt_1vcrd_1", "", 1),
        ("data key", "wrkspc_1", "vlt_1", "vcrd_1", 1),
    ],
)
def test_what_is_sealed_opens_nowhere_else(elsewhere: tuple[str | int, ...]):
    key = cipher.new_key()
    with pytest.raises(SealBrokenError):
        cipher.unseal(key, cipher.seal(key, b"hello", PLACE), elsewhere)


@pytest.mark.parametrize("at", [0, 11, 12, -1])
def test_a_changed_byte_is_noticed(at: int):
    key = cipher.new_key()
    sealed = bytearray(cipher.seal(key, b"hello", PLACE))
    sealed[at] ^= 1
    with pytest.raises(SealBrokenError):
        cipher.unseal(key, bytes(sealed), PLACE)


@pytest.mark.parametrize("sealed", [b"", b"short", b"x" * 12])
def test_what_is_too_short_is_broken_and_no_other_error(sealed: bytes):
    with pytest.raises(SealBrokenError):
        cipher.unseal(cipher.new_key(), sealed, PLACE)


def test_the_same_secret_never_looks_the_same():
    key = cipher.new_key()
    assert len({cipher.seal(key, b"hello", PLACE) for _ in range(100)}) == 100
