"""The master keys, which wrap the data keys; they live in the environment or in a file, never in a row."""

import base64
import binascii
import hashlib
import hmac
import stat
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.errors import InvalidRequestError, UnavailableError
from controlplane.vault import cipher
from controlplane.vault.cipher import KEY_BYTES, Place

_ID_CHARACTERS = 16
_OTHERS = stat.S_IRWXO


class MasterKeySettings(BaseSettings):
    """Where the master keys are; only the API, the egress proxy and the memory worker do read
    this. The last key is the newest."""

    model_config = SettingsConfigDict(env_prefix="BULKHEAD_", extra="ignore")

    master_key: SecretStr | None = None
    """Base64 of 32 bytes; several are separated by commas or spaces."""

    master_key_file: Path | None = None
    """The same, one a line; ``data_dir/master-key`` if neither is set."""


class Wrapped(BaseModel):
    """A data key under a master key."""

    model_config = ConfigDict(frozen=True)

    master_key_id: str
    wrapped: bytes


class Keyring:
    """The master keys that are present.

    A file is read again before anything is wrapped, so that nothing is under a key that has been replaced, and when a
    key is asked for that was not in it before.
    """

    def __init__(self, *, text: SecretStr | None = None, file: Path | None = None):
        self._file = file if text is None else None
        self._keys = _parse(text.get_secret_value(), "BULKHEAD_MASTER_KEY") if text else self._read()

    @property
    def newest_id(self) -> str:
        """The id of the key that new data keys are wrapped with; raises `UnavailableError` if there is none."""
        return next(reversed(self._present()))

    def wrap(self, data_key: bytes, place: Place) -> Wrapped:
        """Wrap a data key with the newest master key; raises `UnavailableError` if there is none."""
        self.reload()
        newest_id = self.newest_id
        return Wrapped(
            master_key_id=newest_id, wrapped=cipher.seal(self._keys[newest_id], data_key, (*place, newest_id))
        )

    def unwrap(self, wrapped: Wrapped, place: Place) -> bytes:
        """Return the data key; raises `UnavailableError` without its master key, else `SealBrokenError`."""
        key = self._present().get(wrapped.master_key_id) or self.reload().get(wrapped.master_key_id)
        if key is None:
            raise UnavailableError(
                f"the master key {wrapped.master_key_id!r} is not present",
                code="master_key_missing",
                field="BULKHEAD_MASTER_KEY",
                next_step="put it back beside the newer ones, then run `bulkhead vaults rewrap` before removing it",
            )
        return cipher.unseal(key, wrapped.wrapped, (*place, wrapped.master_key_id))

    def reload(self) -> dict[str, bytes]:
        """Read the file again, if there is one, and return what is present."""
        if self._file is not None:
            self._keys = self._read()
        return self._keys

    def derived(self, purpose: str) -> list[bytes]:
        """Return a key for another purpose from each master key, the newest first."""
        return [hmac.digest(key, purpose.encode(), "sha256") for key in reversed(self._keys.values())]

    def _present(self) -> dict[str, bytes]:
        keys = self._keys or self.reload()
        if not keys:
            raise UnavailableError(
                "this process has no master key, so that no vault can be opened",
                code="master_key_missing",
                field="BULKHEAD_MASTER_KEY",
                next_step="set BULKHEAD_MASTER_KEY to base64 of 32 random bytes, or BULKHEAD_MASTER_KEY_FILE",
            )
        return keys

    def _read(self) -> dict[str, bytes]:
        if self._file is None or not self._file.exists():
            return {}
        if self._file.stat().st_mode & _OTHERS:
            raise _bad(str(self._file), "others than its owner and group may use the file", "chmod 600 the file")
        return _parse(self._file.read_text(), str(self._file))


def open_keyring(settings: MasterKeySettings, data_dir: Path) -> Keyring:
    """Return the keys that the settings name; none is no error until one is needed."""
    return Keyring(text=settings.master_key, file=settings.master_key_file or data_dir / "master-key")


def new_master_key() -> str:
    """Return a fresh master key as it is written into a file or a variable."""
    return base64.b64encode(cipher.new_key()).decode()


def key_id(key: bytes) -> str:
    """Return the name of a master key: a prefix of a hash, from which the key cannot be found."""
    return hashlib.sha256(b"bulkhead master key\n" + key).hexdigest()[:_ID_CHARACTERS]


def _parse(text: str, source: str) -> dict[str, bytes]:
    keys = [_decoded(part, source) for part in text.replace(",", " ").split()]
    return {key_id(key): key for key in keys}


def _decoded(part: str, source: str) -> bytes:
    try:
        key = base64.b64decode(part, validate=True)
    except binascii.Error as error:
        raise _bad(source, "a master key is not base64", "write base64 of 32 random bytes") from error
    if len(key) != KEY_BYTES:
        raise _bad(source, f"a master key has {len(key)} bytes", f"write base64 of {KEY_BYTES} random bytes")
    return key


def _bad(source: str, reason: str, next_step: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{source}: {reason}", code="bad_master_key", field="BULKHEAD_MASTER_KEY", next_step=next_step
    )
