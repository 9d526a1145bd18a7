"""Segment files: their names, what is still good in one after a crash, and writing them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_agent.spool.records import (
    MARK_FRAME_BYTES,
    Frame,
    FrameKind,
    Mark,
    decode_mark,
    find_frame,
)
from sib_protocol.files import sync_directory
from sib_protocol.ids import LineNumber

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = re.compile(r"(\d{20})\.seg", re.ASCII)
_MAX_NUMBER: Final = 2**63


@dataclass(slots=True)
class Segment:
    """One segment file of a spool.

    Attributes:
        path: where it is.
        first: number of its first line.
        size: bytes of it that are committed.
    """

    path: Path
    first: LineNumber
    size: int


def segment_name(first: LineNumber) -> str:
    """The file name of the segment that begins with a line."""
    return f"{first:020d}.seg"


def list_segments(directory: Path) -> list[Segment]:
    """The segment files of a directory, lowest number first."""
    found = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) < _MAX_NUMBER:
            found.append(Segment(path, LineNumber(int(match[1])), path.stat().st_size))
    return sorted(found, key=lambda segment: segment.first)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is good in the newest segment.

    Attributes:
        mark: of the last whole commit; says the next number and the source's position.
        size: where that commit ends; what follows is a torn write and must go.
        twice: both of its marks are there, so that one more flipped bit does not cost it.
        times: (first line, seconds since 1970 UTC) of the segment's commits, oldest first.
    """

    mark: Mark
    size: int
    twice: bool
    times: list[tuple[LineNumber, float]]


def recover(data: bytes, first: LineNumber) -> Recovery | None:
    """Find the last commit of the newest segment that is whole. Pure.

    A commit is whole when all of its lines are valid, and its HEAD or its TAIL is. Damage before
    the last whole commit costs only what it hits (a gap); what follows that commit is a torn write,
    or damage to the last commit: both are read from the source again, which is still there, because
    a file of the source is given up only by a further commit.

    Args:
        data: the whole file.
        first: the number in its name.

    Returns:
        ``None`` when no commit in it is whole.
    """
    best: Recovery | None = None
    times: list[tuple[LineNumber, float]] = []
    head: Mark | None = None
    latest_head: Mark | None = None
    # Lines run_first <= n < due stand in the file one after the other, and end at `at`.
    run_first = due = int(first)
    at = 0
    while isinstance(frame := find_frame(data, at, whole=True), Frame):
        unbroken = frame.start == at
        at = frame.end
        whole: Mark | None = None
        twice = False
        if frame.kind is FrameKind.LINE:
            if not unbroken or frame.number != due:
                run_first, head = int(frame.number), None
            due = frame.number + 1
        else:
            mark = decode_mark(data, frame)
            if mark is None or mark.next < (best.mark.next if best else first):
                # Older than what is known: bytes that the file system brought back.
                continue
            if frame.kind is FrameKind.HEAD:
                head = latest_head = mark
                run_first = due = int(mark.first)
            elif mark.first == mark.next or (
                unbroken and run_first <= mark.first and due == mark.next
            ):
                whole, twice = mark, mark == latest_head
        if head is not None and due == head.next:
            whole, head = head, None
        if whole is not None:
            best = Recovery(whole, at, twice, times)
            if whole.next > whole.first and (not times or times[-1][0] < whole.first):
                times.append((whole.first, whole.written))
    return best


def read_first_mark(segment: Segment) -> Mark | None:
    """The mark that a segment begins with; ``None`` where it is damaged."""
    with segment.path.open("rb") as file:
        data = file.read(2 * MARK_FRAME_BYTES)
    frame = find_frame(data, 0, whole=True)
    return decode_mark(data, frame) if isinstance(frame, Frame) else None


class SegmentWriter:
    """The newest segment, open for appending. All or nothing: a failed write leaves no trace.

    Attributes:
        segment: what is committed.
    """

    def __init__(self, segment: Segment, descriptor: int) -> None:
        self.segment = segment
        self._descriptor = descriptor
        self._torn = False

    @classmethod
    def open(cls, segment: Segment) -> SegmentWriter:
        """Open a segment that is there, and cut it to its committed size.

        Raises:
            OSError: it cannot be opened or cut.
        """
        writer = cls(segment, os.open(segment.path, os.O_WRONLY | os.O_CLOEXEC))
        writer._torn = True
        try:
            writer._cut()
        except BaseException:
            writer.close()
            raise
        return writer

    @classmethod
    def create(cls, path: Path, first: LineNumber, content: bytes) -> SegmentWriter:
        """Make a segment that begins with ``content``, durable with its name.

        Raises:
            OSError: it cannot be made; then it is not there.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        writer = cls(Segment(path, first, 0), os.open(path, flags, 0o600))
        try:
            writer.write(content)
            sync_directory(path.parent)
        except BaseException:
            writer.close()
            with suppress(OSError):
                path.unlink()
            raise
        return writer

    def write(self, content: bytes) -> None:
        """Append a commit and make it durable.

        Raises:
            OSError: it could not be done; the file is as before, or is cut by the next write.
        """
        self._cut()
        self._torn = True
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fdatasync(self._descriptor)
        except BaseException:
            with suppress(OSError):
                self._cut()
            raise
        self._torn = False
        self.segment.size += len(content)

    def _cut(self) -> None:
        if self._torn:
            os.ftruncate(self._descriptor, self.segment.size)
            os.lseek(self._descriptor, self.segment.size, os.SEEK_SET)
            os.fdatasync(self._descriptor)
            self._torn = False

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
