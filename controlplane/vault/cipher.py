"""AES-256-GCM with a random nonce; what is sealed opens only in the place that it was sealed for."""

import json
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.errors import BulkheadError

KEY_BYTES = 32
_NONCE_BYTES = 12

Place = tuple[str | int, ...]
"""What a ciphertext belongs to: its purpose, then the ids and the version of its row."""


class SealBrokenError(BulkheadError):
    """A ciphertext was changed, moved to another row, or sealed with another key."""


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def seal(key: bytes, plaintext: bytes, place: Place) -> bytes:
    """Return nonce and ciphertext."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, _bytes(place))


def unseal(key: bytes, sealed: bytes, place: Place) -> bytes:
    """Return the plaintext; raises `SealBrokenError` unless key and place are those that it was sealed with."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bytes(place))
    except (InvalidTag, ValueError) as error:
        raise SealBrokenError(
            f"what is stored for {place!r} does not open with its key",
            code="seal_broken",
            next_step="store the secret again; if others fail too, restore the database and the master key together",
        ) from error


def _bytes(place: Place) -> bytes:
    return json.dumps(place).encode()
