"""A plain model beside the real intake: writers, rotation, truncation, crashes, full disks."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from sib_agent.spool.intake import Intake
from sib_agent.spool.records import Batch, SourcePosition
from sib_agent.spool.source import Gulp, Source
from sib_agent.spool.spool import Spool
from sib_protocol.backoff import Backoff
from sib_protocol.ids import LineNumber


class CrashError(Exception):
    pass


class FragileSource(Source):
    crash = False

    def accept(self, gulp: Gulp) -> None:
        if self.crash:
            raise CrashError
        super().accept(gulp)


class IntakeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="sib-intake-"))
        self.events = self.root / "events" / "events.json"
        self.written = 0
        self.expected: list[bytes] = []
        self.begun = b""
        self.server: list[bytes] = []
        self.rotations = 0
        self.blank = 0
        self.open()

    def teardown(self) -> None:
        self.drain()
        # A renamed file's last line counts without its newline, but only an active file ends it.
        if self.begun and self.events.parent.exists() and not self.events.exists():
            self.write_line(1)
            self.drain()
        self.deliver(1000)
        assert self.server == self.expected
        assert self.intake.state.source_problem is None or not self.events.parent.exists()
        left = list(self.events.parent.glob("*.taken")) if self.events.parent.exists() else []
        assert len(left) <= 1
        self.shut()
        shutil.rmtree(self.root)

    def open(self) -> None:
        self.spool = Spool.open(self.root / "spool", quota_bytes=1 << 20, segment_bytes=2000)
        self.source = self.follow(self.spool.position)
        self.intake = Intake(self.spool, self.source, backoff=Backoff(first=0.0))

    def follow(self, position: SourcePosition | None) -> FragileSource:
        return FragileSource(
            self.events,
            position,
            rotate_bytes=700,
            settle_seconds=0.0,
            grace_seconds=0.0,
            gulp_bytes=150,
            max_line_bytes=400,
        )

    def shut(self) -> None:
        self.intake.close()
        self.spool.close()

    def drain(self) -> None:
        for _ in range(10_000):
            # Once more after "nothing": a rename may have been all that there was to do.
            if not self.intake.step() and not self.intake.step():
                return
        raise AssertionError("the intake never comes to rest")

    def write(self, data: bytes) -> None:
        """As Falco does, with the model of what a reader must make of it."""
        self.events.parent.mkdir(exist_ok=True)
        if self.begun and not self.events.exists():
            # The file was renamed under a half-written line: it stays as it is.
            self.expected.append(self.begun[:400])
            self.begun = b""
        with self.events.open("ab") as file:
            file.write(data)
        *whole, self.begun = (self.begun + data).split(b"\n")
        self.expected += [line[:400] for line in whole if line]

    def name(self, size: int) -> bytes:
        self.written += 1
        self.blank = 0
        number = b"%d:" % self.written
        filling = bytes(range(11, 256)) * 5 * (size > 300) + b"\xff\0\r" * size
        # The last 64 bytes differ from line to line, as Falco's time with nanoseconds does.
        return number + filling + number

    @rule(size=st.integers(0, 30) | st.integers(0, 400))
    def write_line(self, size: int) -> None:
        self.write(self.name(size) + b"\n")

    @rule(sizes=st.lists(st.integers(0, 40), min_size=2, max_size=10))
    def write_lines(self, sizes: list[int]) -> None:
        self.write(b"\n".join(map(self.name, sizes)) + b"\n")

    @rule(size=st.integers(0, 400))
    def write_a_part(self, size: int) -> None:
        self.write(self.name(size))

    @rule(count=st.integers(1, 50))
    def write_newlines(self, count: int) -> None:
        # 64 newlines in a row tell nothing of the file they are in, and Falco writes none.
        if self.blank + count <= 50:
            self.write(b"\n" * count)
            self.blank += count

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.intake.step()

    @precondition(lambda self: self.events.exists())
    @rule()
    def rotate_from_outside(self) -> None:
        # Before the file is looked at for the first time nothing tells it from any other one.
        self.drain()
        if self.events.exists():
            self.rotations += 1
            self.events.rename(self.events.with_name(f"events.json.old-{self.rotations}"))

    @precondition(lambda self: self.events.exists())
    @rule(size=st.integers(0, 300))
    def truncate(self, size: int) -> None:
        self.drain()
        if self.events.exists():
            # Nothing tells a truncated half line apart from one that was never begun.
            self.begun = b""
            os.truncate(self.events, 0)
            self.write(self.name(size) + b"\n")

    @rule()
    def restart(self) -> None:
        self.shut()
        self.open()

    @rule(steps=st.integers(0, 5), cut=st.floats(0, 1))
    def crash_in_append(self, steps: int, cut: float) -> None:
        for _ in range(steps):
            self.intake.step()
        before = self.segments()
        self.source.crash = True
        try:
            while self.intake.step():
                before = self.segments()
        except CrashError:
            after = self.segments()
            self.shut()
            newest = max(after)
            begin = before.get(newest, 0)
            os.truncate(newest, begin + round((after[newest] - begin) * cut))
        else:
            self.shut()
        self.open()

    def segments(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.spool._directory.glob("*.seg")}

    @rule(steps=st.integers(1, 4))
    def fill_the_disk(self, steps: int) -> None:
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("os.write", side_effect=full):
            for _ in range(steps):
                self.intake.step()
        self.drain()
        assert self.intake.state.problem is None

    @rule(lines=st.integers(1, 20), acknowledge=st.booleans())
    def deliver(self, lines: int, acknowledge: bool = True) -> None:
        number = self.spool.acknowledged
        while (got := self.spool.read(LineNumber(number), 1000, lines)) is not None:
            assert isinstance(got, Batch)
            assert got.first == number
            # A number means the same line for ever, however often it is read.
            known = self.server[number : number + len(got.lines)]
            assert got.lines[: len(known)] == known
            self.server += got.lines[len(known) :]
            number = LineNumber(number + len(got.lines))
        if acknowledge:
            self.spool.acknowledge(number)
        assert self.server == self.expected[: len(self.server)]


IntakeMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_sync")
class TestIntakeMachine(IntakeMachine.TestCase):  # type: ignore[valid-type, misc]
    pass
