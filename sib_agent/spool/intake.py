"""The way from Falco's events file into the spool."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inotify_simple import INotify, flags

from sib_agent.spool.errors import SpoolWriteError
from sib_protocol.backoff import Backoff

if TYPE_CHECKING:
    from sib_agent.spool.source import Gulp, Source
    from sib_agent.spool.spool import Spool

_POLL_SECONDS: Final = 1.0
_SOON_SECONDS: Final = 0.05
_WATCHED: Final = (
    flags.MODIFY
    | flags.CREATE
    | flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)


@dataclass(frozen=True, slots=True)
class IntakeState:
    """What the intake has done since it was made.

    Attributes:
        lines_read: event lines now in the spool.
        bytes_read: bytes of the events file they came from, newlines included.
        lines_cut: of those lines, how many were longer than a line may be.
        truncations: how often the events file was found truncated.
        problem: why the spool cannot be written, else ``None``.
        source_problem: why the events file cannot be read, else ``None``.
    """

    lines_read: int
    bytes_read: int
    lines_cut: int
    truncations: int
    problem: str | None
    source_problem: str | None


class Intake:
    """Moves lines from a source to a spool. :meth:`step` and :meth:`run` are for one thread."""

    def __init__(self, spool: Spool, source: Source, *, backoff: Backoff | None = None) -> None:
        """Nothing is read yet.

        Args:
            spool: where to.
            source: where from; begun at the spool's position.
            backoff: how to wait while the spool cannot be written.
        """
        self._spool = spool
        self._source = source
        self._backoff = backoff or Backoff(first=0.5, longest=10.0)
        self._draw = random.Random()  # noqa: S311 - jitter
        self._retry_at = 0.0
        self._pending: Gulp | None = None
        self._lines = self._bytes = self._cut = 0
        self._problem: str | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def state(self) -> IntakeState:
        """How it stands; for any thread."""
        return IntakeState(
            self._lines,
            self._bytes,
            self._cut,
            self._source.truncations,
            self._problem,
            self._source.problem,
        )

    def step(self) -> bool:
        """Move one bounded gulp.

        Returns:
            Whether there may be more at once.
        """
        if self._pending is None:
            self._pending = self._source.poll()
        elif time.monotonic() < self._retry_at:
            return False
        gulp = self._pending
        if gulp is None:
            return False
        # A position without lines is not worth a write: what it passed can be passed again.
        if gulp.lines or gulp.commit:
            try:
                self._spool.append(gulp.lines, gulp.position)
            except SpoolWriteError as error:
                self._backoff = self._backoff.failed()
                self._retry_at = time.monotonic() + self._backoff.wait(self._draw)
                self._problem = error.problem
                return False
            self._backoff = self._backoff.succeeded()
            self._problem = None
        self._pending = None
        self._source.accept(gulp)
        self._lines += len(gulp.lines)
        self._bytes += gulp.size
        self._cut += gulp.shortened
        return True

    def wake(self) -> None:
        """Make :meth:`run` look at once, at its stop event too; for any thread."""
        os.eventfd_write(self._bell, 1)

    def run(self, stop: threading.Event) -> None:
        """Move lines as they come, until told to stop.

        Asleep until the kernel tells of a write in the events file's directory; looks every second
        all the same, for directories that cannot be watched.

        Args:
            stop: ends it after the gulp at hand; call :meth:`wake` for that to be at once.
        """
        watch = _Watch(str(self._source.path.parent), self._bell)
        try:
            while not stop.is_set():
                while self.step() and not stop.is_set():
                    pass
                watch.wait(self._pause())
        finally:
            watch.close()

    def _pause(self) -> float:
        if self._pending is not None:
            return min(_POLL_SECONDS, max(0.0, self._retry_at - time.monotonic()))
        return _SOON_SECONDS if self._source.waiting_for_writers else _POLL_SECONDS

    def close(self) -> None:
        """Let go of the source and the bell; the spool stays open."""
        self._source.close()
        os.close(self._bell)


class _Watch:
    """Sleeps until something is written in a directory, a bell rings or time is up."""

    def __init__(self, directory: str, bell: int) -> None:
        self._directory = directory
        self._bell = bell
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)
        self._inotify: INotify | None = None
        self._watched = False
        # Too many watches on this machine: then it is looked at every second.
        with suppress(OSError):
            self._inotify = INotify(nonblocking=True)
            self._poll.register(self._inotify.fileno(), select.POLLIN)
        self._begin()

    def _begin(self) -> None:
        """Watch the directory that has the name now; the same one twice is one watch."""
        if self._inotify is not None:
            with suppress(OSError):
                self._inotify.add_watch(self._directory, _WATCHED)

    def wait(self, seconds: float) -> None:
        woken = self._poll.poll(seconds * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        if self._inotify is not None:
            self._inotify.read(timeout=0)
        if not woken:
            self._begin()

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
