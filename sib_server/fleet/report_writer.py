"""Stores health reports, many in one transaction, and answers each when it is stored."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sib_server.listener.bodies import OverloadedError
from sib_server.state.database import StateDamagedError, StateUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from sib_server.fleet.reports import ReceivedReport


@dataclass(frozen=True, slots=True)
class ReportLimits:
    """How reports are gathered.

    Attributes:
        pause_seconds: from the beginning of one transaction to the next; what comes meanwhile waits
            for that one, and what comes after a quiet time waits for nothing.
        together: the most reports in one transaction: others want to write, too.
        waiting: the most that may wait; one more is refused as too many.
        waiting_bytes: likewise, by the size that they came in.
    """

    pause_seconds: float = 0.05
    together: int = 500
    waiting: int = 10_000
    waiting_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Waiting:
    report: ReceivedReport
    size: int
    stored: asyncio.Future[None]


class ReportWriter:
    """For asyncio: nothing here is shared with a thread but the reports that it is to store.

    Args:
        store: stores reports, all or none; called in ``threads``, once at a time.
        threads: where.
        limits: how they are gathered.
    """

    def __init__(
        self,
        store: Callable[[Sequence[ReceivedReport]], None],
        threads: Executor,
        limits: ReportLimits | None = None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._limits = limits or ReportLimits()
        self._queue: deque[_Waiting] = deque()
        self._bytes = 0
        self._not_before = 0.0
        self._writing: asyncio.Task[None] | None = None

    async def submit(self, report: ReceivedReport, size: int) -> None:
        """Store a report; returns when it is stored. A host's reports are in the order they came.

        Args:
            report: of a host.
            size: that it came in, bytes.

        Raises:
            OverloadedError: too many wait; it was not taken.
            StateUnavailableError, StateDamagedError: it could not be stored.
        """
        limits, full = self._limits, False
        if self._queue:
            full = self._bytes + size > limits.waiting_bytes or len(self._queue) >= limits.waiting
        if full:
            raise OverloadedError
        waiting = _Waiting(report, size, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._bytes += size
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="reports")
        await waiting.stored

    async def close(self) -> None:
        """Wait until nothing waits any more."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                await asyncio.sleep(max(0.0, self._not_before - loop.time()))
                self._not_before = loop.time() + self._limits.pause_seconds
                batch = self._take()
                for waiting, error in zip(batch, await self._try(batch), strict=True):
                    if waiting.stored.done():
                        continue
                    if error is None:
                        waiting.stored.set_result(None)
                    else:
                        waiting.stored.set_exception(error)
        finally:
            self._writing = None

    def _take(self) -> list[_Waiting]:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._limits.together))]
        self._bytes -= sum(waiting.size for waiting in batch)
        return batch

    async def _try(self, batch: Sequence[_Waiting]) -> list[Exception | None]:
        """What became of each."""
        reports = [waiting.report for waiting in batch]
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._store, reports)
        except (StateUnavailableError, StateDamagedError) as error:
            return [error] * len(batch)
        except Exception as error:  # noqa: BLE001  (it belongs to whose report it is)
            if len(batch) == 1:
                return [error]
            # One of them is at fault: the others are none the worse for it.
            return [outcome for one in batch for outcome in await self._try([one])]
        return [None] * len(batch)
