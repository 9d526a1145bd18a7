"""How sinks are fed from the journal: each reads on a connection and in a thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sib_server.events.reader import JournalReader, Lag
from sib_server.events.stored import Seq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sib_server.events.damage import JournalDamage
    from sib_server.events.stored import StoredEvent
    from sib_server.events.writer import JournalWriter

Result = TypeVar("Result")


class CommitBell:
    """Wakes sinks when the journal has committed; rung from the writer's thread.

    Args:
        loop: where the sinks wait.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = Seq(0)
        self._rung = asyncio.Event()

    def ring(self, last: Seq) -> None:
        """The journal now reaches ``last``. From any thread."""
        # A server that stops closes its loop before the writer's last commit.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, last)

    def _wake(self, last: Seq) -> None:
        self._last = max(self._last, last)
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def wait(self, after: Seq) -> None:
        """Return when the journal reaches further than ``after``."""
        while self._last <= after:
            await self._rung.wait()


class JournalSource:
    """The journal as one sink sees it; an :class:`~sib_server.events.sinks.delivery.EventSource`.

    Args:
        sink: its name, under which the cursor is kept.
        path: the journal's file.
        writer: keeps the cursor.
        bell: rung at every commit.
        on_damage: told of damaged rows.
        annotate: adds notes to events, in this source's thread; must not fail.
    """

    def __init__(
        self,
        sink: str,
        path: Path,
        writer: JournalWriter,
        bell: CommitBell,
        on_damage: Callable[[JournalDamage], None],
        *,
        annotate: Callable[[list[StoredEvent]], list[StoredEvent]] | None = None,
    ) -> None:
        self._sink = sink
        self._annotate = annotate or (lambda events: events)
        self._writer = writer
        self._bell = bell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sink-{sink}")
        self._reader = JournalReader(path, on_damage=on_damage)
        self._delivered = Seq(0)

    async def cursor(self) -> Seq:
        """The last event that was delivered; 0 before the first."""
        # The writer makes a cursor durable with the next commit; until then this one is newer.
        kept = await self._call(lambda: self._reader.cursor(self._sink))
        return max(kept, self._delivered)

    async def read(self, after: Seq, max_events: int, max_bytes: int) -> list[StoredEvent]:
        """The next events in order; empty only when there is none."""
        return await self._call(
            lambda: self._annotate(
                self._reader.read(after, max_events=max_events, max_bytes=max_bytes)
            )
        )

    async def advance(self, seq: Seq) -> None:
        """Remember that all events up to this one are delivered."""
        self._delivered = seq
        self._writer.advance(self._sink, seq)

    async def wait(self, after: Seq) -> None:
        """Return when there is an event after this one."""
        await self._bell.wait(after)

    async def lag(self) -> Lag:
        """How far the sink is behind."""
        return await self._call(lambda: self._reader.lag(self._sink))

    async def close(self) -> None:
        """Give the journal's file back."""
        await self._call(self._reader.close)
        self._thread.shutdown()

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
