"""Memory with its real parts in this process: the rules, the embedded model, Postgres."""

from functools import cache

from pydantic import SecretStr

from controlplane.memory.embedding import WordLlamaEmbedder
from controlplane.memory.preparation import LocalPreparer
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring, new_master_key


@cache
def embedded() -> WordLlamaEmbedder:
    """The embedded model, loaded once."""
    return WordLlamaEmbedder()


def preparer(database: Database, keyring: Keyring | None = None) -> LocalPreparer:
    """What prepares memories for one database."""
    return LocalPreparer(database, keyring or Keyring(text=SecretStr(new_master_key())), [embedded()])
