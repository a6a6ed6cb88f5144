import base64
from pathlib import Path

import pytest
from pydantic import SecretStr

from controlplane.embedded import master_key
from controlplane.errors import InvalidRequestError, UnavailableError
from controlplane.vault.keyring import Keyring, MasterKeySettings, new_master_key, open_keyring

PLACE = ("data key", "wrkspc_1", "vlt_1")


def keyring(*keys: str) -> Keyring:
    return Keyring(text=SecretStr(",".join(keys)))


def written(path: Path, *keys: str) -> Path:
    path.write_text("\n".join(keys) + "\n")
    path.chmod(0o600)
    return path


def test_the_last_key_wraps_and_every_present_one_unwraps():
    old, new = new_master_key(), new_master_key()
    before = keyring(old).wrap(b"data", PLACE)
    after = keyring(old, new).wrap(b"data", PLACE)
    assert (before.master_key_id, after.master_key_id) == (keyring(old).newest_id, keyring(new).newest_id)
    assert keyring(old, new).unwrap(before, PLACE) == keyring(old, new).unwrap(after, PLACE) == b"data"


def test_a_key_that_is_not_present_is_named_and_nothing_opens():
    wrapped = keyring(new_master_key()).wrap(b"data", PLACE)
    with pytest.raises(UnavailableError) as caught:
        keyring(new_master_key()).unwrap(wrapped, PLACE)
    assert caught.value.code == "master_key_missing"
    assert wrapped.master_key_id in caught.value.message


def test_a_process_without_a_key_says_so_when_one_is_needed(tmp_path: Path):
    empty = open_keyring(MasterKeySettings(), tmp_path)
    with pytest.raises(UnavailableError):
        empty.wrap(b"data", PLACE)
    assert empty.derived("anything") == []


def test_a_key_that_is_added_to_the_file_is_found_without_a_restart(tmp_path: Path):
    old, new = new_master_key(), new_master_key()
    path = written(tmp_path / "master-key", old)
    reader = Keyring(file=path)
    written(path, old, new)
    wrapped = Keyring(file=path).wrap(b"data", PLACE)
    assert reader.newest_id != wrapped.master_key_id
    assert reader.unwrap(wrapped, PLACE) == b"data"


def test_nothing_is_wrapped_with_a_key_that_has_been_replaced_meanwhile(tmp_path: Path):
    old, new = new_master_key(), new_master_key()
    path = written(tmp_path / "master-key", old)
    running = Keyring(file=path)
    written(path, old, new)
    written(path, new)
    assert Keyring(file=path).unwrap(running.wrap(b"data", PLACE), PLACE) == b"data"


@pytest.mark.parametrize("text", ["not base64!", base64.b64encode(b"x" * 31).decode(), "A" * 43])
def test_what_is_no_key_is_refused_without_being_shown(text: str):
    with pytest.raises(InvalidRequestError) as caught:
        keyring(text)
    assert caught.value.code == "bad_master_key"
    assert text not in caught.value.message


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path):
    path = written(tmp_path / "master-key", new_master_key())
    path.chmod(0o644)
    with pytest.raises(InvalidRequestError) as caught:
        Keyring(file=path)
    assert "chmod" in str(caught.value.next_step)


def test_no_key_shows_in_a_repr():
    key = new_master_key()
    assert key not in repr(MasterKeySettings(master_key=SecretStr(key))) + repr(vars(MasterKeySettings()))


def test_a_master_key_is_made_once_for_its_owner_alone(tmp_path: Path):
    master_key.provision(MasterKeySettings(), tmp_path)
    made = (tmp_path / "master-key").read_text()
    master_key.provision(MasterKeySettings(), tmp_path)
    assert (tmp_path / "master-key").read_text() == made
    assert (tmp_path / "master-key").stat().st_mode & 0o777 == 0o600
    assert open_keyring(MasterKeySettings(), tmp_path).newest_id


def test_no_master_key_is_made_where_one_is_given(tmp_path: Path):
    master_key.provision(MasterKeySettings(master_key=SecretStr(new_master_key())), tmp_path)
    assert list(tmp_path.iterdir()) == []
