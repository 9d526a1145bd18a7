"""A plain model beside the real spool: crashes, torn writes, flipped bits, the quota."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sib_agent.spool.errors import SpoolFullDiskError
from sib_agent.spool.records import (
    FRAME_BYTES,
    MARK_FRAME_BYTES,
    Batch,
    Gap,
    SourcePosition,
    fingerprint,
)
from sib_agent.spool.spool import Spool
from sib_protocol.ids import LineNumber
from sib_protocol.messages import GapReason

QUOTA = 16 * 1024
SEGMENT = 2 * 1024
BASE = 2 * MARK_FRAME_BYTES


@dataclass
class Commit:
    first: int
    lines: list[bytes]
    position: SourcePosition
    path: str
    start: int
    hit_lines: set[int] = field(default_factory=set)
    hit_mark: bool = False

    @property
    def next(self) -> int:
        return self.first + len(self.lines)

    @property
    def size(self) -> int:
        return BASE + sum(FRAME_BYTES + len(line) for line in self.lines)

    def hit(self, at: int) -> bool:
        """A byte of it is to be damaged, counted from its start; False for a second mark."""
        if at < MARK_FRAME_BYTES or at >= self.size - MARK_FRAME_BYTES:
            known, self.hit_mark = self.hit_mark, True
            return not known
        at -= MARK_FRAME_BYTES
        for number, line in enumerate(self.lines, self.first):
            at -= FRAME_BYTES + len(line)
            if at < 0:
                self.hit_lines.add(number)
                return True
        raise AssertionError("not a byte of this commit")


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="sib-spool-"))
        self.lives = 0
        self.directory = self.root / "0"
        self.spool = Spool.open(self.directory, quota_bytes=QUOTA, segment_bytes=SEGMENT)
        self.stream = self.spool.stream
        self.commits: list[Commit] = []
        self.acknowledged = 0
        self.quota_allowed = False
        self.offset = 0
        self.hit_bases: set[str] = set()

    def teardown(self) -> None:
        self.check_everything()
        self.spool.close()
        shutil.rmtree(self.root)

    # -- the model

    @property
    def next(self) -> int:
        return self.commits[-1].next if self.commits else 0

    def truth(self, number: int) -> bytes:
        for commit in reversed(self.commits):
            if commit.first <= number < commit.next:
                return commit.lines[number - commit.first]
        raise AssertionError(f"line {number} was never written")

    def damaged(self) -> set[int]:
        return set().union(*(commit.hit_lines for commit in self.commits))

    def newest(self) -> tuple[Path, int]:
        path = max(self.directory.glob("*.seg"))
        return path, path.stat().st_size

    def written(
        self, lines: list[bytes], position: SourcePosition, before: Path, size: int
    ) -> None:
        path, _ = self.newest()
        start = size if path == before else BASE
        self.commits.append(Commit(self.next, lines, position, path.name, start))
        pending = sum(c.size for c in self.commits if c.next > self.acknowledged)
        segments = len(list(self.directory.glob("*.seg")))
        # A segment that is only partly acknowledged still counts as a whole.
        if pending + (segments + 2) * BASE + 2 * SEGMENT > QUOTA:
            self.quota_allowed = True

    def draw_lines(self, sizes: list[int]) -> tuple[list[bytes], SourcePosition]:
        # \x9eS is how a frame begins: lines try to look like one, as far as lines can.
        lines = [
            b"%d:" % number + (b"\x9eSL\x9eSt" * size)[:size]
            for number, size in enumerate(sizes, self.next)
        ]
        self.offset += sum(len(line) + 1 for line in lines) + 1
        return lines, SourcePosition(7, 9, self.offset, fingerprint(b"".join(lines)))

    # -- rules

    sizes = st.lists(st.integers(0, 60) | st.integers(0, 900), max_size=12)

    @initialize(sizes=sizes)
    def begin(self, sizes: list[int]) -> None:
        self.append(sizes)

    @rule(sizes=sizes)
    def append(self, sizes: list[int]) -> None:
        lines, position = self.draw_lines(sizes)
        before, size = self.newest()
        self.spool.append(lines, position)
        self.written(lines, position, before, size)

    @rule(sizes=sizes, written=st.integers(0, 2000), late=st.booleans())
    def append_on_a_full_disk(self, sizes: list[int], written: int, late: bool) -> None:
        lines, position = self.draw_lines(sizes)
        before, size = self.newest()
        real, left = os.write, [written]

        def write(descriptor: int, data: memoryview) -> int:
            if left[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = real(descriptor, data[: left[0]])
            left[0] -= count
            return count

        failing = (
            mock.patch("os.fdatasync", side_effect=OSError(errno.EDQUOT, "Disk quota exceeded"))
            if late
            else mock.patch("os.write", write)
        )
        with failing:
            try:
                self.spool.append(lines, position)
            except SpoolFullDiskError:
                assert self.spool.next == self.next
            else:
                self.written(lines, position, before, size)
                return
        self.spool.append(lines, position)
        self.written(lines, position, before, size)

    @rule(share=st.floats(0, 1), max_bytes=st.integers(1, 3000), max_lines=st.integers(1, 20))
    def read(self, share: float, max_bytes: int, max_lines: int) -> None:
        first = self.acknowledged + int((self.next - self.acknowledged) * share)
        got = self.spool.read(LineNumber(first), max_bytes, max_lines)
        assert (got is None) == (first == self.next)
        if got is None:
            return
        assert got.first == first
        if isinstance(got, Batch):
            assert 1 <= len(got.lines) <= max_lines
            assert len(got.lines) == 1 or sum(map(len, got.lines)) <= max_bytes
        self.compare(got)

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        number = self.acknowledged + round((self.next - self.acknowledged) * share)
        self.spool.acknowledge(LineNumber(number))
        self.acknowledged = number
        assert self.spool.acknowledged == number

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.open()
        assert self.spool.next == self.next
        assert self.spool.acknowledged == self.acknowledged

    @rule(sizes=sizes, cut=st.floats(0, 1), zeros=st.booleans())
    def crash_in_append(self, sizes: list[int], cut: float, zeros: bool) -> None:
        lines, position = self.draw_lines(sizes)
        before, size = self.newest()
        self.spool.append(lines, position)
        self.written(lines, position, before, size)
        commit = self.commits[-1]
        begin = commit.start if commit.path == before.name else 0
        end = commit.start + commit.size
        self.move()
        path = self.directory / commit.path
        torn = begin + round((end - begin) * cut)
        os.truncate(path, torn)
        if zeros:
            os.truncate(path, end)
        if torn < end - MARK_FRAME_BYTES:
            self.commits.pop()
        self.open()
        assert self.spool.next == self.next
        expected = self.commits[-1].position if self.commits else None
        assert self.spool.position == expected

    @rule(data=st.data())
    def crash_with_a_flipped_bit(self, data: st.DataObject) -> None:
        self.move()
        path = data.draw(st.sampled_from(sorted(self.directory.glob("*.seg"))))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if not self.hit(path.name, at):
            # Both marks of one commit: more than one bit's damage, and not what is promised.
            self.open()
            return
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        self.open()
        # The last commit comes again from the source when a line of it is damaged.
        while self.commits and self.spool.next < self.next:
            assert self.commits.pop().hit_lines
        assert self.spool.next == self.next
        assert self.spool.position == (self.commits[-1].position if self.commits else None)
        assert self.spool.acknowledged == min(self.acknowledged, self.next)
        self.acknowledged = self.spool.acknowledged

    @rule(at=st.integers(0, 8191), bit=st.integers(0, 7))
    def crash_with_a_flipped_bit_in_the_state(self, at: int, bit: int) -> None:
        self.move()
        content = bytearray((self.directory / "state").read_bytes())
        content[at] ^= 1 << bit
        (self.directory / "state").write_bytes(content)
        self.open()
        assert self.spool.next == self.next
        assert self.spool.acknowledged <= self.acknowledged
        self.acknowledged = self.spool.acknowledged

    def hit(self, path: str, at: int) -> bool:
        for commit in self.commits:
            if commit.path == path and commit.start <= at < commit.start + commit.size:
                return commit.hit(at - commit.start)
        # What a segment repeats at its beginning; the commits before it may be acknowledged.
        known = path in self.hit_bases
        self.hit_bases.add(path)
        return not known

    # -- checks

    def move(self) -> None:
        """A crash: only what is on the disk lives on."""
        self.lives += 1
        old, self.directory = self.directory, self.root / str(self.lives)
        shutil.copytree(old, self.directory)
        self.spool.close()
        shutil.rmtree(old)

    def open(self) -> None:
        self.spool = Spool.open(self.directory, quota_bytes=QUOTA, segment_bytes=SEGMENT)
        assert self.spool.stream == self.stream

    def compare(self, got: Batch | Gap) -> None:
        damaged = self.damaged()
        if isinstance(got, Batch):
            for number, line in enumerate(got.lines, got.first):
                assert line == self.truth(number)
        elif got.reason is GapReason.DAMAGE:
            assert set(range(got.first, got.last + 1)) <= damaged
        else:
            assert got.reason is GapReason.QUOTA
            assert self.quota_allowed

    @invariant()
    def stays_within_the_quota(self) -> None:
        stats = self.spool.stats()
        on_disk = [path.stat().st_size for path in self.directory.glob("*.seg")]
        assert stats.bytes == sum(on_disk)
        assert stats.bytes <= QUOTA or len(on_disk) == 1
        assert stats.pending == self.next - self.acknowledged

    def check_everything(self) -> None:
        number, quota_over = self.acknowledged, False
        while (got := self.spool.read(LineNumber(number), 1000, 100)) is not None:
            assert got.first == number
            self.compare(got)
            if isinstance(got, Gap) and got.reason is GapReason.QUOTA:
                assert not quota_over
            quota_over = True
            number = got.first + len(got.lines) if isinstance(got, Batch) else got.last + 1
        assert number == self.next

    @precondition(lambda self: self.next > self.acknowledged)
    @rule()
    def read_everything(self) -> None:
        self.check_everything()


SpoolMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_sync")
class TestSpoolMachine(SpoolMachine.TestCase):  # type: ignore[valid-type, misc]
    pass
