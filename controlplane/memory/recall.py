"""What a turn begins with of its session's memory: the blocks, and what has to do with how the session began."""

from controlplane.memory.preparing import Preparer
from controlplane.memory.rendering import Shown, rendered
from controlplane.store import memory_attached, memory_search
from controlplane.store.memory_search import Search
from controlplane.store.pool import Database

RELATED = 10


class Recall:
    """Reads what the prompt of a turn has of memory; vectors come from elsewhere."""

    def __init__(self, database: Database, preparer: Preparer):
        self._database = database
        self._preparer = preparer

    async def section(self, workspace_id: str, session_id: str) -> str:
        """Return the section of the system prompt; empty for a session without stores."""
        async with self._database.transaction(workspace_id) as connection:
            stores = await memory_attached.attached(connection, session_id)
            if not stores:
                return ""
            began = await memory_attached.first_words(connection, session_id)
        vector = await self._preparer.question(workspace_id, began) if began.strip() else None
        async with self._database.transaction(workspace_id) as connection:
            blocks, unread = await memory_attached.blocks(connection, stores)
            if any(block.untrusted for block in blocks):
                # Before it is shown: nothing that the model does with it comes first.
                await memory_attached.note_untrusted(connection, session_id)
            related: list[Shown] = []
            if began.strip():
                # What nobody vouches for is found by who looks for it, and is not put before a model unasked.
                wanted = Search(query=began, limit=RELATED + len(blocks), trusted_only=True)
                hits = await memory_search.search(
                    connection, [store.store_id for store in stores], wanted, vector=vector
                )
                names = {store.store_id: store.name for store in stores}
                related = [
                    Shown(
                        store=names[hit.version.store_id],
                        path=hit.version.path or "",
                        memory_type=None,
                        version=hit.version.version,
                        content=hit.version.content or "",
                        untrusted=False,
                    )
                    for hit in hits
                    if hit.version.memory_type is None and not hit.superseded
                ][:RELATED]
        return rendered(stores, blocks, related, unread=unread)
