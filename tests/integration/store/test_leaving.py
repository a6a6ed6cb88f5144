"""What a front door says leaves without secrets, whatever carries them."""

from pathlib import Path

import pytest

from controlplane.frontdoors.contract import Attachment, Card, Choice
from controlplane.frontdoors.leaving import Leaving
from controlplane.store.pool import Database
from controlplane.vault.keyring import MasterKeySettings, open_keyring
from tests.integration.store.conftest import WORKSPACE

TOKEN = "ghp_" + "a1B2" * 9


@pytest.fixture
def leaving(database: Database, tmp_path: Path) -> Leaving:
    """What leaves the default workspace."""
    return Leaving(database, open_keyring(MasterKeySettings(), tmp_path), WORKSPACE)


@pytest.mark.parametrize(
    "content",
    [TOKEN.encode(), b"\xff" + TOKEN.encode(), TOKEN.encode("utf-16"), TOKEN.encode("utf-16-be")],
    ids=["text", "a byte that is no text", "utf-16", "utf-16-be"],
)
async def test_a_secret_in_a_file_is_seen_however_it_is_written(leaving: Leaving, content: bytes) -> None:
    assert await leaving.secrets_in(b"the token: " + content)


async def test_a_file_without_secrets_may_leave(leaving: Leaving) -> None:
    assert await leaving.secrets_in(b"\x89PNG\r\n\0\0\1\xff hello") == ()


async def test_names_and_arguments_are_scrubbed_leaf_by_leaf(leaving: Leaving) -> None:
    card = Card(tool_use_id="t", tool="bash", input={"a": [f'say "{TOKEN}"\n', 1], TOKEN: None}, seal="")
    assert TOKEN not in str(await leaving.body(card))
    assert (await leaving.body(card)).input["a"][1] == 1  # type: ignore[union-attr]
    assert TOKEN not in str(await leaving.body(Attachment(name=f"{TOKEN}.txt", text=TOKEN)))
    assert TOKEN not in str(await leaving.body(Choice(agents={"agent_1": TOKEN})))
