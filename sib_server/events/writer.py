"""The one thread that writes the journal, and the way to it from asyncio.

Whatever waits goes into one commit: under load a commit's fsync is shared by thousands of events,
and a lone event waits for nothing. Finished batches wake the event loop once a commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from sib_server.events.failures import (
    JournalBusyError,
    JournalError,
    JournalUnavailableError,
)
from sib_server.events.incoming import IncomingBatch, ServerRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_server.events.incoming import Incoming, Outcome
    from sib_server.events.journal import Journal
    from sib_server.events.stored import Seq

_log: Final = logging.getLogger(__name__)
_CURSOR_SECONDS: Final = 1.0
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How much may wait and how much goes into one commit.

    Attributes:
        waiting_events: the most events that may wait; a batch more is refused as busy.
        waiting_bytes: likewise, in bytes of lines.
        commit_events: a commit takes no further batch once it holds this many.
        commit_bytes: likewise, in bytes of lines.
    """

    waiting_events: int = 200_000
    waiting_bytes: int = 128 * 1024 * 1024
    commit_events: int = 16_384
    commit_bytes: int = 16 * 1024 * 1024


@dataclass(slots=True)
class _Waiting:
    entry: Incoming
    events: int
    size: int
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class _Task:
    function: Callable[[Journal], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


_Answer: TypeAlias = tuple["asyncio.Future[Any]", Any]


@dataclass(slots=True)
class WriterCounts:
    """What the writer has done since it began.

    Attributes:
        commits: transactions that stored something.
        stored: events stored.
        skipped: lines that the journal had already.
        failures: transactions that failed.
        failing: why the last one failed; ``None`` after one that did not.
    """

    commits: int = 0
    stored: int = 0
    skipped: int = 0
    failures: int = 0
    failing: str | None = None


@dataclass(slots=True)
class _Queue:
    waiting: deque[_Waiting] = field(default_factory=deque)
    tasks: deque[_Task] = field(default_factory=deque)
    cursors: dict[str, Seq] = field(default_factory=dict)
    events: int = 0
    size: int = 0
    closing: bool = False


class JournalWriter:
    """Takes batches from asyncio and commits them in a thread of its own.

    Attributes:
        counts: for metrics.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        limits: WriterLimits | None = None,
        on_commit: Callable[[Seq], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            journal: from here on only this writer uses it, and closes it at the end.
            limits: how much may wait.
            on_commit: called in the writer's thread after each commit that stored events, with the
                newest one's place; must only wake somebody.
        """
        self.counts = WriterCounts()
        self._journal = journal
        self._limits = limits or WriterLimits()
        self._on_commit = on_commit
        self._queue = _Queue()
        self._changed = threading.Condition(threading.Lock())
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    @property
    def waiting_events(self) -> int:
        """How many events wait for a commit."""
        return self._queue.events

    async def submit(self, entry: Incoming) -> Outcome:
        """Give one batch, gap or record to the journal; returns when it is durable.

        Raises:
            JournalBusyError: too much waits; nothing was taken.
            JournalUnavailableError: the disk; nothing was taken, and trying again is safe.
            JournalDamagedError: the file; nothing was taken.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        events, size = _weigh(entry)
        queue, limits = self._queue, self._limits
        with self._changed:
            self._refuse_when_closed()
            # An empty queue takes any batch: a limit below one batch's size must not block it.
            if queue.events and (
                queue.events + events > limits.waiting_events
                or queue.size + size > limits.waiting_bytes
            ):
                raise JournalBusyError(queue.events)
            queue.waiting.append(_Waiting(entry, events, size, future, loop))
            queue.events += events
            queue.size += size
            self._changed.notify()
        return await future

    async def run(self, function: Callable[[Journal], Result]) -> Result:
        """Run a function on the journal between two commits; ingest waits for it meanwhile.

        For maintenance: whoever waits for new events is not told of any that it stores.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        with self._changed:
            self._refuse_when_closed()
            self._queue.tasks.append(_Task(function, future, loop))
            self._changed.notify()
        return await future

    def advance(self, sink: str, seq: Seq) -> None:
        """Note that a sink has delivered everything up to ``seq``; durable within about a second.

        Sinks deliver at least once, so a cursor lost in a crash costs a repeat and no fsync now.
        From any thread.
        """
        with self._changed:
            self._queue.cursors[sink] = seq
            self._changed.notify()

    def close(self, timeout: float = 30.0) -> None:
        """Commit what waits, stop the thread and close the journal. Blocks; idempotent."""
        with self._changed:
            self._queue.closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _refuse_when_closed(self) -> None:
        if self._queue.closing:
            raise JournalUnavailableError(self._journal.path, "the server is stopping")

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            self._journal.close()

    def _step(self) -> bool:
        queue = self._queue
        with self._changed:
            while not (queue.waiting or queue.tasks or queue.closing):
                # Cursors alone are gathered for a while: each commit costs an fsync.
                if not self._changed.wait(_CURSOR_SECONDS if queue.cursors else None):
                    break
            batch, task = self._take()
            cursors, queue.cursors = queue.cursors, {}
            more = bool(queue.waiting or queue.tasks) or not queue.closing
        if batch or cursors:
            self._commit(batch, cursors)
        if task is not None:
            self._run_task(task)
        return more

    def _take(self) -> tuple[list[_Waiting], _Task | None]:
        queue, limits = self._queue, self._limits
        batch: list[_Waiting] = []
        events = size = 0
        while queue.waiting and events < limits.commit_events and size < limits.commit_bytes:
            waiting = queue.waiting.popleft()
            batch.append(waiting)
            events += waiting.events
            size += waiting.size
        queue.events -= events
        queue.size -= size
        return batch, queue.tasks.popleft() if queue.tasks else None

    def _commit(self, batch: list[_Waiting], cursors: dict[str, Seq]) -> None:
        before = self._journal.last_seq
        try:
            outcomes: list[Any] = list(
                self._journal.append([waiting.entry for waiting in batch], cursors)
            )
        except Exception as error:  # noqa: BLE001 -- whatever failed, all who wait are answered
            outcomes = [error] * len(batch)
            self._note_failure(error, cursors)
        else:
            stored = self._journal.last_seq - before
            self.counts.failing = None
            self.counts.commits += 1
            self.counts.stored += stored
            self.counts.skipped += sum(getattr(outcome, "skipped", 0) for outcome in outcomes)
            if stored and self._on_commit is not None:
                self._on_commit(self._journal.last_seq)
        answers: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for waiting, outcome in zip(batch, outcomes, strict=True):
            answers.setdefault(waiting.loop, []).append((waiting.future, outcome))
        for loop, results in answers.items():
            _answer(loop, results)

    def _note_failure(self, error: Exception, cursors: dict[str, Seq]) -> None:
        self.counts.failures += 1
        self.counts.failing = str(error)
        if isinstance(error, JournalError):
            _log.error("%s", error)
        else:
            _log.exception("a commit of the journal failed")
        with self._changed:
            # A cursor that came meanwhile is newer than the one that was not written.
            self._queue.cursors = {**cursors, **self._queue.cursors}
            closing = self._queue.closing
        if not closing:
            # A full disk stays full for a while: neither spin nor flood the log.
            threading.Event().wait(0.05)

    def _run_task(self, task: _Task) -> None:
        try:
            result: Any = task.function(self._journal)
        except Exception as error:  # noqa: BLE001 -- it belongs to the one who asked
            result = error
        _answer(task.loop, [(task.future, result)])


def _weigh(entry: Incoming) -> tuple[int, int]:
    if isinstance(entry, IncomingBatch):
        return len(entry.lines), sum(map(len, entry.lines))
    return 1, len(entry.line) if isinstance(entry, ServerRecord) else 0


def _answer(loop: asyncio.AbstractEventLoop, results: list[_Answer]) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, results)
    except RuntimeError:
        # The loop is closed: those who waited are gone, and what was stored stays stored.
        _log.debug("%d answers of the journal came too late", len(results))


def _resolve(results: list[_Answer]) -> None:
    for future, result in results:
        if future.cancelled():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
