"""The spool: a numbered stream of event lines on disk that outlives every crash.

One thread appends, one reads and acknowledges, any may look. The appender writes and syncs outside
the lock and publishes afterwards, so nobody ever sees a line that a power cut could take back.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sib_agent.spool.ages import Ages
from sib_agent.spool.errors import (
    SpoolLockedError,
    SpoolReadError,
    SpoolWriteError,
    write_error,
)
from sib_agent.spool.reader import RecentLines, SegmentReader
from sib_agent.spool.records import Batch, Gap, Mark, SourcePosition, encode_commit
from sib_agent.spool.recovery import Recovered, recover_spool
from sib_agent.spool.segments import SegmentWriter, segment_name
from sib_agent.spool.state import SpoolState, StateFile
from sib_protocol.ids import LineNumber, StreamId, new_stream_id
from sib_protocol.limits import MAX_LINE_BYTES
from sib_protocol.messages import GapReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DEFAULT_QUOTA_BYTES: Final = 512 * 1024 * 1024
DEFAULT_SEGMENT_BYTES: Final = 8 * 1024 * 1024
_RECENT_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """How a spool stands.

    Attributes:
        bytes: its segments' size on disk.
        quota: what that may be at most, bytes.
        acknowledged: number of the first line not acknowledged.
        next: number of the next line.
        pending: lines not acknowledged, lost ones included.
        oldest_seconds: age of the oldest of those; may be somewhat too high, never too low; 0
            when there is none.
        lost: lines lost since the stream began, by reason.
    """

    bytes: int
    quota: int
    acknowledged: LineNumber
    next: LineNumber
    pending: int
    oldest_seconds: float
    lost: Mapping[GapReason, int]


class Spool:
    """An open spool; make one with :meth:`open`."""

    def __init__(
        self,
        directory: Path,
        lock_descriptor: int,
        state_file: StateFile,
        recovered: Recovered,
        *,
        quota_bytes: int,
        segment_bytes: int,
    ) -> None:
        self._directory = directory
        self._lock_descriptor = lock_descriptor
        self._state_file = state_file
        self._state = recovered.state
        self._segments = recovered.segments
        self._writer = recovered.writer
        self._next = recovered.mark.next
        self._position = recovered.mark.position
        self._quota = quota_bytes
        # A quarter, so that giving up the oldest one never means giving up most.
        self._segment_bytes = min(segment_bytes, quota_bytes // 4)
        self._recent = RecentLines(self._next, _RECENT_BYTES)
        self._reader = SegmentReader()
        self._told: set[Gap] = set()
        self._ages = Ages(recovered.times, wall=time.time(), steady=time.monotonic())
        self._changed = threading.Condition()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    ) -> Spool:
        """Open the spool of a directory, or begin one; cuts off what a crash left half-written.

        Args:
            directory: of nothing but this spool; made if it is not there.
            quota_bytes: the most that its segments may take. One commit may pass it.
            segment_bytes: size at which a new segment is begun; a quarter of the quota at most.

        Raises:
            SpoolLockedError: another process owns it.
            SpoolFullDiskError: there is no room even for a new segment.
            SpoolWriteError: it cannot be written.
        """
        lock_descriptor = -1
        state_file = StateFile(directory / "state")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_descriptor = _lock(directory)
            spool = cls(
                directory,
                lock_descriptor,
                state_file,
                recover_spool(directory, state_file),
                quota_bytes=quota_bytes,
                segment_bytes=segment_bytes,
            )
            with spool._changed:
                spool._delete_acknowledged()
                spool._keep_quota()
        except BaseException as error:
            state_file.close()
            if lock_descriptor >= 0:
                os.close(lock_descriptor)
            if isinstance(error, OSError):
                raise write_error(directory, error) from error
            raise
        return spool

    @property
    def stream(self) -> StreamId:
        """The id of the stream that this spool's lines are numbered in."""
        return self._state.stream

    def begin_stream(self) -> None:
        """Go on in a new stream: the lines not acknowledged, and all new ones, under their numbers.

        For a spool that was put back from a copy: the server knows other lines by its numbers.

        Raises:
            SpoolWriteError: the state cannot be written.
        """
        with self._changed:
            # The state file alone says which stream it is; commits only say so for its loss.
            self._remember(replace(self._state, stream=new_stream_id()), durable=True)

    @property
    def position(self) -> SourcePosition | None:
        """Where the source stands after the last commit; ``None`` before the first."""
        return self._position

    @property
    def next(self) -> LineNumber:
        """Number of the next line that will be appended."""
        return self._next

    @property
    def acknowledged(self) -> LineNumber:
        """Number of the first line that is not acknowledged."""
        return self._state.acknowledged

    def append(self, lines: Sequence[bytes], position: SourcePosition) -> None:
        """Make lines and the source's position durable, together. For one thread.

        Args:
            lines: may be none; at most ``MAX_LINE_BYTES`` each, without newlines.
            position: where the source stands after them.

        Raises:
            ValueError: a line is too long or holds a newline.
            SpoolFullDiskError: no room; nothing has changed, and it can be tried again.
            SpoolWriteError: another failure to write; nothing has changed either.
        """
        if lines and (max(map(len, lines)) > MAX_LINE_BYTES or b"\n" in b"".join(lines)):
            raise ValueError("a line of the spool is too long or holds a newline")
        first = self._next
        next_ = LineNumber(first + len(lines))
        now = time.time()
        content = encode_commit(lines, Mark(self.stream, first, next_, now, position))
        try:
            self._write(content, now)
        except OSError as error:
            raise write_error(self._directory, error) from error
        with self._changed:
            self._next, self._position = next_, position
            if lines:
                self._recent.add(lines)
                self._ages.add(first, time.monotonic())
                self._changed.notify_all()
            # The lines are in: a failure here is not the append's, and the next one tries again.
            with suppress(SpoolWriteError):
                self._keep_quota()

    def _write(self, content: bytes, now: float) -> None:
        segment, first = self._writer.segment, self._next
        grown = segment.size + len(content)
        # A segment is named after its first line: while it has none, it cannot have a successor.
        if segment.first == first or grown <= self._segment_bytes:
            self._writer.write(content)
            return
        # The new segment repeats where the source stood before, so that it never needs the old
        # one, whatever becomes of its first commit.
        base = encode_commit((), Mark(self.stream, first, first, now, self._position))
        path = self._directory / segment_name(first)
        writer = SegmentWriter.create(path, first, base + content)
        with self._changed:
            old, self._writer = self._writer, writer
            self._segments.append(writer.segment)
            old.close()

    def _keep_quota(self) -> None:
        """Give up the oldest segments until the rest is within the quota. Holds the lock."""
        surplus = sum(segment.size for segment in self._segments) - self._quota
        dropped = 0
        while surplus > 0 and dropped < len(self._segments) - 1:
            surplus -= self._segments[dropped].size
            dropped += 1
        if dropped:
            floor = self._segments[dropped].first
            # First remembered, then deleted: a crash in between must not make it damage.
            self._remember(replace(self._state, floor=floor), durable=True)
            self._delete(dropped)

    def _delete_acknowledged(self) -> None:
        """Delete whole segments that the server has. Holds the lock."""
        firsts = [segment.first for segment in self._segments]
        done = bisect_right(firsts, self._state.acknowledged) - 1
        if done > 0:
            # An older acknowledgement must not come back once the lines are gone.
            self._remember(self._state, durable=True)
            self._delete(done)
            # An open file that is deleted still takes its room on the disk.
            self._reader.close_below(self._segments[0].first)

    def _delete(self, count: int) -> None:
        for segment in self._segments[:count]:
            # Left behind, it is deleted when the spool is opened next.
            with suppress(OSError):
                segment.path.unlink()
        del self._segments[:count]

    def _remember(self, state: SpoolState, *, durable: bool) -> None:
        try:
            self._state_file.write(state, durable=durable)
        except OSError as error:
            raise write_error(self._directory, error) from error
        self._state = state

    def read(self, first: LineNumber, max_bytes: int, max_lines: int) -> Batch | Gap | None:
        """Lines from a number on. For one thread.

        Args:
            first: number of the first line wanted.
            max_bytes: the most that the lines may hold together; the first one comes in any case.
            max_lines: the most lines, at least 1.

        Returns:
            A batch that begins with ``first`` (it may be smaller than allowed without being the
            last one), a gap that begins with it, or ``None`` when it is not there yet.

        Raises:
            SpoolReadError: a segment cannot be read.
        """
        while True:
            with self._changed:
                if first >= self._next:
                    return None
                missing = self._missing_before_segments(first)
                if missing is not None:
                    return self._tell(missing)
                lines = self._recent.read(first, max_bytes, max_lines)
                if lines:
                    return Batch(first, lines)
                at = bisect_right([segment.first for segment in self._segments], first) - 1
                segment, size = self._segments[at], self._segments[at].size
                newest = at + 1 == len(self._segments)
                limit = self._next if newest else self._segments[at + 1].first
            try:
                lines, hole = self._reader.read(
                    segment, size, first, limit, max_bytes=max_bytes, max_lines=max_lines
                )
            except FileNotFoundError:
                with self._changed:
                    if segment not in self._segments:
                        continue
                hole = limit
            except OSError as error:
                raise SpoolReadError(segment.path, error.strerror or str(error)) from error
            if hole is not None and not lines:
                with self._changed:
                    return self._tell(Gap(first, LineNumber(hole - 1), GapReason.DAMAGE))
            return Batch(first, lines)

    def _missing_before_segments(self, first: LineNumber) -> Gap | None:
        """The gap that a line older than all segments is in."""
        oldest, state = self._segments[0].first, self._state
        if first >= oldest:
            return None
        if first < state.acknowledged:
            end, reason = min(oldest, state.acknowledged), GapReason.ACKNOWLEDGED
        elif first < state.floor:
            end, reason = min(oldest, state.floor), GapReason.QUOTA
        else:
            end, reason = oldest, GapReason.DAMAGE
        return Gap(first, LineNumber(end - 1), reason)

    def _tell(self, gap: Gap) -> Gap:
        if gap.first >= self._state.acknowledged:
            self._told.add(gap)
        return gap

    def acknowledge(self, next_: LineNumber) -> None:
        """The server has every line below ``next_``, or knows that it is lost.

        Never goes back, and never above :attr:`next`. Survives a kill; a power cut may bring back
        an older acknowledgement, whose lines the server then skips.

        Raises:
            SpoolWriteError: it could not be written down.
        """
        with self._changed:
            next_ = min(next_, self._next)
            if next_ <= self._state.acknowledged:
                return
            state = self._state.acknowledge(next_, self._told)
            self._told = {gap for gap in self._told if gap.last >= next_}
            self._recent.forget(next_)
            self._ages.forget(next_)
            self._remember(state, durable=False)
            self._delete_acknowledged()

    def wait(self, number: LineNumber, timeout: float) -> bool:
        """Wait until the line ``number`` is there.

        Args:
            number: of the line.
            timeout: seconds to wait at most.

        Returns:
            Whether it is there.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._next > number, timeout)

    def stats(self) -> SpoolStats:
        """How the spool stands, without looking at the disk."""
        with self._changed:
            state, next_ = self._state, self._next
            pending = next_ - state.acknowledged
            return SpoolStats(
                bytes=sum(segment.size for segment in self._segments),
                quota=self._quota,
                acknowledged=state.acknowledged,
                next=next_,
                pending=pending,
                oldest_seconds=self._ages.oldest(time.monotonic()) if pending else 0.0,
                lost=state.lost(self._told, next_),
            )

    def close(self) -> None:
        """Write down the acknowledgement and let another process have the spool."""
        with self._changed:
            try:
                self._remember(self._state, durable=True)
            finally:
                self._reader.close()
                self._writer.close()
                self._state_file.close()
                os.close(self._lock_descriptor)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = os.pread(descriptor, 20, 0).strip()
            raise SpoolLockedError(directory, int(text) if text.isdigit() else None) from error
        os.ftruncate(descriptor, 0)
        # Only for the other one's error message: a full disk must not keep the spool shut.
        with suppress(OSError):
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
