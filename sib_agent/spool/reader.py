"""Reading lines back from segment files, and from the memory of what was just appended."""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from sib_agent.spool.records import FRAME_BYTES, Taken, take_lines
from sib_protocol.ids import LineNumber

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_agent.spool.segments import Segment

_CHUNK_BYTES: Final = 256 * 1024
_LINE_COST: Final = 64


class RecentLines:
    """The newest lines, bounded in bytes, so that a reader that keeps up needs no disk.

    Attributes:
        first: number of the oldest line held.
    """

    def __init__(self, first: LineNumber, limit_bytes: int) -> None:
        self.first = first
        self._limit = limit_bytes
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, lines: Sequence[bytes]) -> None:
        """Remember lines that follow the ones held."""
        self._lines += lines
        self._bytes += sum(map(len, lines)) + _LINE_COST * len(lines)
        if self._bytes > self._limit:
            # Down to half, so that the price of it is paid rarely.
            surplus = self._bytes - self._limit // 2
            sums = list(accumulate(len(line) + _LINE_COST for line in self._lines))
            self._drop(min(len(sums), bisect_right(sums, surplus) + 1))

    def forget(self, before: LineNumber) -> None:
        """Let go of the lines below a number."""
        self._drop(min(before - self.first, len(self._lines)))

    def _drop(self, count: int) -> None:
        if count > 0:
            self._bytes -= sum(map(len, self._lines[:count])) + _LINE_COST * count
            del self._lines[:count]
            self.first = LineNumber(self.first + count)

    def read(self, first: LineNumber, max_bytes: int, max_lines: int) -> list[bytes]:
        """Lines from a number on, at least one; empty when that one is not held."""
        if first < self.first:
            return []
        at = first - self.first
        lines = self._lines[at : at + max_lines]
        fit = bisect_right(list(accumulate(map(len, lines))), max_bytes)
        return lines[: max(fit, 1)]


class SegmentReader:
    """Reads lines from segment files; remembers where it stopped. For one thread."""

    def __init__(self) -> None:
        self._segment: Segment | None = None
        self._descriptor = -1
        self._at = 0
        self._number = LineNumber(0)

    def read(
        self,
        segment: Segment,
        size: int,
        first: LineNumber,
        limit: LineNumber,
        *,
        max_bytes: int,
        max_lines: int,
    ) -> tuple[list[bytes], LineNumber | None]:
        """Lines of one segment from a number on.

        Args:
            segment: holds ``first``.
            size: how many bytes of it are committed.
            first: number of the line to begin with.
            limit: number of the first line that does not belong to the segment.
            max_bytes: stop before the sum of the lines passes this, but not before the first line.
            max_lines: stop after that many.

        Returns:
            The lines; or none, and the number of the next line that is there or ``limit``.

        Raises:
            OSError: the file cannot be read (FileNotFoundError: it was given up meanwhile).
        """
        self._open(segment, first)
        length = min(max_bytes, 16 * _CHUNK_BYTES) + _CHUNK_BYTES
        while True:
            data = os.pread(self._descriptor, length, self._at)
            data = data[: max(0, size - self._at)]
            taken: Taken = take_lines(
                data,
                0,
                first,
                limit,
                # Nothing more to be had: also where somebody has cut the file behind our back.
                whole=self._at + len(data) >= size or len(data) < length,
                max_bytes=max_bytes,
                max_lines=max_lines,
            )
            self._at += taken.at
            if taken.lines or taken.hole is not None:
                self._number = LineNumber(first + len(taken.lines))
                return taken.lines, taken.hole
            length = max(taken.wanted + FRAME_BYTES, _CHUNK_BYTES)

    def _open(self, segment: Segment, first: LineNumber) -> None:
        if self._segment is not segment:
            self.close()
            self._descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            self._segment = segment
            self._at, self._number = 0, segment.first
        if first < self._number:
            self._at, self._number = 0, segment.first

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._segment = -1, None

    def close_below(self, first: LineNumber) -> None:
        """Let go of the file if it is a segment older than the one that begins with ``first``."""
        if self._segment is not None and self._segment.first < first:
            self.close()
