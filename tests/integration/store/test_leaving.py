"""What a front door says leaves without secrets, whatever carries them."""

import pytest

from controlplane.frontdoors.contract import Attachment, Card, Choice
from controlplane.frontdoors.leaving import Leaving
from controlplane.store import recognition
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring
from tests.integration.store.conftest import WORKSPACE

TOKEN = "ghp_" + "a1B2" * 9


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


async def test_of_a_secret_with_spaces_no_word_is_shown_before_it_is_whole(
    database: Database, keyring: Keyring, leaving: Leaving
) -> None:
    secret, before, behind = (
        "correct horse battery staple",
        "It is this: ",
        " and nothing else, whatever you may hear.",
    )
    text = f"{before}{secret}{behind}"
    assert await leaving.begun(text[:20]) == "It is this: correct ", "nobody has this secret yet"
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO vaults (id, workspace_id, display_name, archived_at) VALUES ('vlt_1', %s, 'v', now())",
            (WORKSPACE,),
        )
        await connection.execute(
            "INSERT INTO credentials (id, workspace_id, vault_id, name, binding, version, sealed)"
            " VALUES ('vcrd_1', %s, 'vlt_1', 'n', '{}', 1, 'x')",
            (WORKSPACE,),
        )
        key = await recognition.key_of(connection, WORKSPACE, keyring=keyring)
        await recognition.mark(connection, "vcrd_1", secret, key=key)
    shown = [await leaving.begun(text[:length]) for length in range(len(text) + 1)]
    assert not any(word in each for each in shown for word in secret.split())
    assert shown[-1].startswith(before)
    assert shown[-1].endswith("] and nothing ")
