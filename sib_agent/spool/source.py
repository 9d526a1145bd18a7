"""The follower of Falco's events file: reads its lines in order, through renames and truncations.

Nothing that :meth:`Source.poll` returns counts as read until :meth:`Source.accept`; in between the
caller makes it durable. So a full disk or a crash repeats a gulp and never loses one.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_agent.spool.files import (
    candidates_in,
    has_writers,
    open_regular,
    read_before,
)
from sib_agent.spool.lines import NOTHING, Partial, cut_lines
from sib_agent.spool.records import FINGERPRINT_REACH, SourcePosition, fingerprint
from sib_agent.spool.rotation import (
    HELD_SECONDS,
    SETTLE_SECONDS,
    Candidate,
    Standing,
    Step,
    find_start,
    may_leave,
    next_number,
    next_step,
    successor,
    taken_name,
)
from sib_protocol.limits import MAX_LINE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

GULP_BYTES: Final = 1024 * 1024
DEFAULT_ROTATE_BYTES: Final = 16 * 1024 * 1024
DEFAULT_GRACE_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 10.0


@dataclass(slots=True)
class _Followed:
    """The file being read. ``read`` runs ahead of ``offset`` by the bytes of ``partial``'s line."""

    descriptor: int
    name: str
    number: int | None
    device: int
    inode: int
    offset: int = 0
    read: int = 0
    before: bytes = b""
    partial: Partial = NOTHING
    renamed_at: float | None = None
    grown_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Gulp:
    """What one look at the source brought.

    Attributes:
        lines: complete event lines, oldest first.
        position: where the source stands after them.
        commit: whether the position must be made durable even if there are no lines.
        size: bytes read from the file for it.
        shortened: how many of ``lines`` were cut to the longest allowed.
    """

    lines: list[bytes]
    position: SourcePosition
    commit: bool
    size: int
    shortened: int
    _partial: Partial
    _read: int
    _before: bytes
    _next: _Followed | None = None


class Source:
    """Follows one events file. For one thread; the counters may be read by any.

    Attributes:
        truncations: how often the file was found shorter, or with other bytes, than was read.
        problem: why the file cannot be read or taken over, else ``None``.
    """

    def __init__(
        self,
        path: Path,
        position: SourcePosition | None,
        *,
        rotate_bytes: int = DEFAULT_ROTATE_BYTES,
        grace_seconds: float = DEFAULT_GRACE_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        gulp_bytes: int = GULP_BYTES,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        """Nothing is opened yet.

        Args:
            path: the file that Falco appends to.
            position: of the spool's last mark.
            rotate_bytes: size from which the file is taken over.
            grace_seconds: how long a renamed file must not grow before it is left, where the
                file system does not tell who has it open.
            settle_seconds: how long after a rename no answer about writers is trusted.
            gulp_bytes: the most that one :meth:`poll` reads.
            max_line_bytes: the longest that a line may be; the rest of a longer one is dropped.
        """
        self.path = path
        self.truncations = 0
        self.problem: str | None = None
        self._position = position
        self._rotate_bytes = rotate_bytes
        self._grace = grace_seconds
        self._settle = settle_seconds
        self._gulp_bytes = gulp_bytes
        self._max_line = max_line_bytes
        self._file: _Followed | None = None
        self._done = 0
        self._rotate_after = 0.0
        self._waiting = False

    def poll(self) -> Gulp | None:
        """Look once, reading a bounded amount.

        Returns:
            Something to make durable and then :meth:`accept`; ``None`` when there is nothing now.
        """
        try:
            if self._file is None:
                return self._start()
            return self._look()
        except OSError as error:
            self.problem = f"{error.filename or self.path}: {error.strerror or error}"
            return None

    def accept(self, gulp: Gulp) -> None:
        """What :meth:`poll` returned last is in the spool."""
        file = self._file
        if file is None:
            return
        self._position = gulp.position
        if gulp._next is None:
            file.offset = gulp.position.offset
            file.read, file.before, file.partial = gulp._read, gulp._before, gulp._partial
            return
        os.close(file.descriptor)
        self._file = gulp._next
        if file.number is not None:
            self._done = file.number
            self._delete(file.name, file.inode)

    @property
    def waiting_for_writers(self) -> bool:
        """A renamed file is at its end and may be left soon: nothing will wake us for that."""
        return self._waiting

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file.descriptor)
            self._file = None

    def _start(self) -> Gulp | None:
        """Open the file to begin with, if there is one."""
        files = candidates_in(self.path, self._position)
        start = find_start(self._position, files)
        if start.candidate is None:
            self.problem = None
            return None
        self._file = self._follow(start.candidate, start.offset)
        self._done = start.done
        self.truncations += start.truncated
        # Left behind by a crash after their last line was in the spool.
        for file in files:
            if file.number is not None and file.number <= start.done:
                self._delete(file.name, file.inode)
        # At once and without lines: were it renamed by somebody and we restarted before its first
        # line is in the spool, nothing else would tell it from any old file.
        return self._arrive(self._file, start.offset)

    def _arrive(self, file: _Followed, offset: int, following: _Followed | None = None) -> Gulp:
        """Only a position: the beginning of a file."""
        position = self._place(file, offset, None)
        return Gulp(
            [],
            position,
            commit=position != self._position,
            size=0,
            shortened=0,
            _partial=NOTHING,
            _read=offset,
            _before=file.before,
            _next=following,
        )

    def _follow(self, candidate: Candidate, offset: int) -> _Followed:
        descriptor = open_regular(self.path.with_name(candidate.name))
        found = os.fstat(descriptor)
        file = _Followed(descriptor, candidate.name, candidate.number, found.st_dev, found.st_ino)
        file.offset = file.read = offset
        file.before = read_before(descriptor, offset)
        file.grown_at = time.monotonic()
        return file

    def _look(self) -> Gulp | None:
        file = self._file
        assert file is not None  # noqa: S101 - poll() has seen to it
        now = time.monotonic()
        active = self._active()
        renamed = active is None or (active.st_dev, active.st_ino) != (file.device, file.inode)
        if not renamed:
            file.renamed_at = None
        elif file.renamed_at is None:
            file.renamed_at = now
        problem: str | None = None
        gulp: Gulp | None = None
        data, size = self._read_on(file)
        if size > file.read:
            file.grown_at = now
        renamed_for = now - file.renamed_at if file.renamed_at is not None else 0.0
        followed = renamed and self._has_successor(active is not None)
        self._waiting = followed and renamed_for < HELD_SECONDS
        step = next_step(
            Standing(
                size=size,
                read=file.read,
                intact=data is not None,
                renamed=renamed,
                rotate=now >= self._rotate_after,
                followed=followed,
                settled=renamed_for >= self._settle,
            ),
            self._rotate_bytes,
        )
        if step is Step.RESTART:
            self.truncations += 1
            file.offset = file.read = 0
            file.before, file.partial = b"", NOTHING
            data, size = self._read_on(file)
        elif step is Step.TAKE_OVER:
            problem = self._take_over(file)
        elif step is Step.LEAVE:
            self.problem = None
            return self._leave(file, now - file.grown_at, renamed_for)
        if now < self._rotate_after and problem is None:
            problem = self.problem
        if data:
            gulp = self._cut(file, data)
        self.problem = problem
        return gulp

    def _active(self) -> os.stat_result | None:
        try:
            return self.path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _has_successor(self, active: bool) -> bool:
        return active or successor(candidates_in(self.path, None), self._done_with()) is not None

    def _done_with(self) -> int:
        number = self._file.number if self._file is not None else None
        return max(self._done, number or 0)

    def _read_on(self, file: _Followed) -> tuple[bytes | None, int]:
        """The next bytes and the file's size; ``None`` when the ones before are not the same."""
        overlap = len(file.before)
        size = os.fstat(file.descriptor).st_size
        data = os.pread(file.descriptor, overlap + self._gulp_bytes, file.read - overlap)
        if data[:overlap] != file.before:
            return None, size
        return data[overlap:], size

    def _cut(self, file: _Followed, data: bytes) -> Gulp:
        cut = cut_lines(file.partial, data, self._max_line)
        read = file.read + len(data)
        offset = file.read + cut.end if cut.end else file.offset
        before = self._tail(file.before, data)
        # Bytes before the last newline: what a restart must find again.
        known = self._tail(file.before, data[: cut.end]) if cut.end else None
        return Gulp(
            cut.lines,
            self._place(file, offset, known),
            commit=False,
            size=len(data),
            shortened=cut.shortened,
            _partial=cut.partial,
            _read=read,
            _before=before,
        )

    @staticmethod
    def _tail(before: bytes, data: bytes) -> bytes:
        if len(data) >= FINGERPRINT_REACH:
            return data[-FINGERPRINT_REACH:]
        return (before + data)[-FINGERPRINT_REACH:]

    def _place(self, file: _Followed, offset: int, known: bytes | None) -> SourcePosition:
        if known is None:
            known = read_before(file.descriptor, offset)
        return SourcePosition(file.device, file.inode, offset, fingerprint(known))

    def _take_over(self, file: _Followed) -> str | None:
        number = next_number(candidates_in(self.path, None), self._done)
        name = taken_name(self.path.name, number)
        try:
            self.path.rename(self.path.with_name(name))
        except OSError as error:
            self._rotate_after = time.monotonic() + _RETRY_SECONDS
            return f"{self.path}: it cannot be renamed, so it grows: {error.strerror}"
        # What was renamed may be another file by now, that somebody put there in between.
        renamed = self.path.with_name(name).stat(follow_symlinks=False)
        if (renamed.st_dev, renamed.st_ino) == (file.device, file.inode):
            file.name, file.number, file.renamed_at = name, number, time.monotonic()
        return None

    def _leave(self, file: _Followed, quiet: float, renamed_for: float) -> Gulp | None:
        if not may_leave(has_writers(file.descriptor), quiet, self._grace):
            if renamed_for >= HELD_SECONDS:
                self.problem = (
                    f"{self.path.with_name(file.name)}: a process holds it open for writing; "
                    "Falco needs file_output.keep_alive: false"
                )
            return None
        if os.fstat(file.descriptor).st_size != file.read:
            return None
        if file.partial.kept:
            # Its writer is gone without a newline: this is all there will ever be of the line.
            return Gulp(
                [file.partial.kept],
                self._place(file, file.read, file.before),
                commit=True,
                size=0,
                shortened=int(file.partial.over),
                _partial=NOTHING,
                _read=file.read,
                _before=file.before,
            )
        found = successor(candidates_in(self.path, None), self._done_with())
        if found is None:
            return None
        following = self._follow(found, 0)
        return self._arrive(following, 0, following)

    def _delete(self, name: str, inode: int) -> None:
        path = self.path.with_name(name)
        with suppress(OSError):
            found = path.stat(follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_ino == inode:
                path.unlink()
