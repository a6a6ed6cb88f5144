"""Memory with its real parts in this process: the rules, the embedded model, Postgres."""

from functools import cache
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import SecretStr

from controlplane.ids import new_id
from controlplane.memory.embedding import WordLlamaEmbedder
from controlplane.memory.preparation import LocalPreparer
from controlplane.memory.preparing import Draft
from controlplane.memory.tools import MemoryTools
from controlplane.store import memories, memory_attached, memory_stores, resources
from controlplane.store.journal import PostgresJournal
from controlplane.store.memories import Author, MemoryContent, MemoryRecord
from controlplane.store.memory_attached import Owners
from controlplane.store.memory_stores import StoreContent, StoreRecord
from controlplane.store.pool import Database
from controlplane.vault.keyring import Keyring, new_master_key
from workflows.contracts import ToolCallInput


@cache
def embedded() -> WordLlamaEmbedder:
    """The embedded model, loaded once."""
    return WordLlamaEmbedder()


def preparer(database: Database, keyring: Keyring | None = None) -> LocalPreparer:
    """What prepares memories for one database."""
    return LocalPreparer(database, keyring or Keyring(text=SecretStr(new_master_key())), [embedded()])


WORKSPACE = "wrkspc_default"


class Mind:
    """Stores and sessions in one database, and the memory tools as the memory worker runs them."""

    def __init__(self, database: Database, workspace_id: str = WORKSPACE):
        self.database = database
        self.workspace_id = workspace_id
        self.preparer = preparer(database)
        self.tools = MemoryTools(database, PostgresJournal(database), self.preparer)

    async def store(self, **content: Any) -> StoreRecord:
        """Make a store."""
        async with self.database.transaction(self.workspace_id) as connection:
            return await memory_stores.create(
                connection, self.workspace_id, StoreContent(**{"name": "notes", **content})
            )

    async def attach(self, session_id: str, *stores: StoreRecord, access: str = "read_write") -> None:
        """Attach stores to a session."""
        async with self.database.transaction(self.workspace_id) as connection:
            for store in stores:
                taken = [each.name for each in await memory_attached.attached(connection, session_id)]
                mount = await memory_attached.mount_of(
                    connection,
                    store.id,
                    Owners(session_id=session_id, agent_id="", user_id=None),
                    access=access,
                    instructions=None,
                    taken=[f"/mnt/memory/{name}" for name in taken],
                    field="memory_store_id",
                )
                await resources.add(connection, self.workspace_id, session_id=session_id, mount=mount)

    async def session(self, *stores: StoreRecord) -> str:
        """Make a session with these stores and a turn that runs."""
        session, agent, environment = new_id("sesn"), new_id("agent"), new_id("env")
        statements = [
            ("INSERT INTO agents (id, workspace_id, version) VALUES (%s, %s, 1)", (agent, self.workspace_id)),
            (
                "INSERT INTO environments (id, workspace_id, name, config) VALUES (%s, %s, 'e', '{}')",
                (environment, self.workspace_id),
            ),
            (
                "INSERT INTO sessions (id, workspace_id, agent_id, agent_version, agent, environment_id)"
                " VALUES (%s, %s, %s, 1, %s, %s)",
                (session, self.workspace_id, agent, Jsonb({"id": agent}), environment),
            ),
            (
                "INSERT INTO turns (id, workspace_id, session_id, begun_seq, models) VALUES (%s, %s, %s, 0, %s)",
                (f"turn_{session}", self.workspace_id, session, Jsonb(["scripted/x"])),
            ),
        ]
        async with self.database.transaction(self.workspace_id) as connection:
            for statement, values in statements:
                await connection.execute(statement.encode(), values)
        await self.attach(session, *stores)
        return session

    async def begin(self, session_id: str, words: str) -> None:
        """Let a session have begun with a message."""
        payload = Jsonb({"content": [{"type": "text", "text": words}]})
        async with self.database.transaction(self.workspace_id) as connection:
            await connection.execute(
                "INSERT INTO events (session_id, seq, id, workspace_id, type, payload, position, processed_at)"
                " VALUES (%s, 1, %s, %s, 'user.message', %s, 1, clock_timestamp())",
                (session_id, new_id("sevt"), self.workspace_id, payload),
            )

    async def dispatch(self, session_id: str, name: str, value: dict[str, Any]) -> ToolCallInput:
        """Journal a call that is about to run."""
        call = ToolCallInput(tool_use_id=new_id("sevt"), session_id=session_id, workspace_id=self.workspace_id)
        async with self.database.transaction(self.workspace_id) as connection:
            await connection.execute(
                "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, state, verdict,"
                " dispatched_at) VALUES (%s, %s, %s, %s, %s, %s, 'dispatched', 'allow', clock_timestamp())",
                (call.tool_use_id, self.workspace_id, session_id, f"turn_{session_id}", name, Jsonb(value)),
            )
        return call

    async def run(self, call: ToolCallInput) -> str:
        """Run a journaled call, and return what the model is told."""
        journal = PostgresJournal(self.database)
        row = await journal.read(call)
        assert row is not None
        await self.tools.run(call, row)
        done = await journal.read(call)
        assert done is not None and done.outcome is not None
        return done.outcome.content[0].model_dump()["text"]

    async def use(self, session_id: str, name: str, **value: Any) -> str:
        """Run a call of a session, and return what the model is told."""
        return await self.run(await self.dispatch(session_id, name, value))

    async def save(self, store: StoreRecord, path: str, content: str, **more: Any) -> MemoryRecord:
        """Save a memory as a person does."""
        [prepared] = await self.preparer.prepare(self.workspace_id, [Draft(path=path, content=content)])
        async with self.database.transaction(self.workspace_id) as connection:
            locked = await memory_stores.lock(connection, store.id)
            made = MemoryContent(path=path, content=prepared.content, **more)
            return await memories.create(connection, locked, made, Author(is_person=True), vector=prepared.vector)

    async def fill(self, store: StoreRecord, count: int, *, size_bytes: int, prefix: str = "/m") -> None:
        """Let a store hold many memories of one size, put there behind everybody's back."""
        content = "x" * size_bytes
        async with self.database.transaction(self.workspace_id) as connection:
            await connection.execute(
                "INSERT INTO memories (id, workspace_id, store_id, path, version, version_id, content, sha256,"
                " size_bytes, created_at, updated_at) SELECT s.id || p || n, s.workspace_id, s.id, p || n, 1,"
                " s.id || p || n, %s, %s, %s, now(), now() FROM memory_stores s,"
                " generate_series(1, %s) n, (SELECT %s::text AS p) AS given"
                " WHERE s.id = %s",
                (content, memories.sha256(content), size_bytes, count, prefix, store.id),
            )

    async def overwrite(self, memory: MemoryRecord, content: str) -> MemoryRecord:
        """Give a memory another content as a person does."""
        return await self.change(memory, content=content)

    async def change(self, memory: MemoryRecord, **changes: Any) -> MemoryRecord:
        """Change a memory as a person does."""
        async with self.database.transaction(self.workspace_id) as connection:
            locked = await memory_stores.lock(connection, memory.store_id)
            changed = MemoryContent(**memory.model_dump(include=set(MemoryContent.model_fields)))
            changed = changed.model_copy(update=changes)
            return await memories.change(connection, locked, memory, changed, Author(is_person=True))

    async def delete(self, memory: MemoryRecord) -> None:
        """Delete a memory as a person does."""
        async with self.database.transaction(self.workspace_id) as connection:
            locked = await memory_stores.lock(connection, memory.store_id)
            await memories.remove(connection, locked, memory, Author(is_person=True))

    async def read(self, store: StoreRecord, path: str) -> MemoryRecord:
        """Return what is at a path."""
        async with self.database.transaction(self.workspace_id) as connection:
            found = await memories.at(connection, store.id, path)
        assert found is not None
        return found

    async def contents(self, store: StoreRecord) -> dict[str, str]:
        """Return path → content of everything in a store."""
        async with self.database.transaction(self.workspace_id) as connection:
            found = await memories.below(connection, store.id, "/", limit=1000)
        return {memory.path: memory.content for memory in found}

    async def count(self, table: str) -> int:
        """Return how many rows a table has."""
        async with self.database.transaction("*") as connection:
            row = await (await connection.execute(f"SELECT count(*) AS n FROM {table}".encode())).fetchone()  # noqa: S608
        assert row is not None
        return row["n"]
