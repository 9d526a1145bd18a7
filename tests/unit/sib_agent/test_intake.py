from __future__ import annotations

import errno
import fcntl
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from sib_agent.spool.files import has_writers
from sib_agent.spool.intake import Intake
from sib_agent.spool.records import Batch
from sib_agent.spool.rotation import Writers
from sib_agent.spool.source import Source
from sib_agent.spool.spool import Spool
from sib_protocol.ids import LineNumber
from sib_protocol.limits import MAX_LINE_BYTES

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's rights")


class Bench:
    """A spool, a source and an intake over a temporary directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = root / "events" / "events.json"
        self.events.parent.mkdir()
        self.open()

    def open(self, **options: float) -> None:
        self.spool = Spool.open(self.root / "spool")
        self.source = Source(
            self.events,
            self.spool.position,
            settle_seconds=0,
            **options,  # type: ignore[arg-type]
        )
        self.intake = Intake(self.spool, self.source)

    def close(self) -> None:
        self.intake.close()
        self.spool.close()

    def reopen(self, **options: float) -> None:
        self.close()
        self.open(**options)

    def write(self, data: bytes) -> None:
        with self.events.open("ab") as file:
            file.write(data)

    def drain(self) -> list[bytes]:
        while self.intake.step() or self.intake.step():
            pass
        return self.lines()

    def lines(self) -> list[bytes]:
        lines: list[bytes] = []
        while (got := self.spool.read(LineNumber(len(lines)), 1 << 24, 10_000)) is not None:
            assert isinstance(got, Batch)
            lines += got.lines
        return lines

    def names(self) -> list[str]:
        return sorted(path.name for path in self.events.parent.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def public_bench() -> Iterator[Bench]:
    """One that another user may reach: pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory(prefix="sib-intake-") as root:
        Path(root).chmod(0o755)
        bench = Bench(Path(root))
        yield bench
        bench.close()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.005)


def test_a_missing_file_is_waited_for_and_a_missing_directory_is_a_problem(bench: Bench) -> None:
    assert bench.drain() == []
    assert bench.intake.state.source_problem is None
    bench.events.parent.rmdir()
    assert bench.drain() == []
    assert "events: No such file" in str(bench.intake.state.source_problem)
    bench.events.parent.mkdir()
    bench.write(b"a\n")
    assert bench.drain() == [b"a"]
    assert bench.intake.state.source_problem is None


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_not_a_file_is_refused(bench: Bench, kind: str) -> None:
    if kind == "link":
        bench.events.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(bench.events)
    else:
        bench.events.mkdir()
    assert bench.drain() == []
    problem = str(bench.intake.state.source_problem)
    assert str(bench.events) in problem
    assert ("symbolic link" if kind == "link" else "not a regular file") in problem


@root_only
@pytest.mark.parametrize("known", [False, True])
def test_denied_permission_is_a_problem_and_is_retried(public_bench: Bench, known: bool) -> None:
    bench, expected = public_bench, []
    if known:
        bench.write(b"a\n")
        expected = bench.drain()
        bench.reopen()
    bench.write(b"b\n")
    bench.events.chmod(0)
    os.seteuid(65534)
    try:
        assert not bench.intake.step()
        problem = str(bench.intake.state.source_problem)
        assert problem == f"{bench.events}: Permission denied"
    finally:
        os.seteuid(0)
    assert bench.drain() == [*expected, b"b"]
    assert bench.intake.state.source_problem is None
    assert bench.intake.state.truncations == 0


def test_a_directory_that_may_not_be_written_lets_the_file_grow(bench: Bench) -> None:
    bench.reopen(rotate_bytes=4)
    bench.write(b"first\n")
    denied = OSError(errno.EACCES, "Permission denied")
    with mock.patch.object(Path, "rename", side_effect=denied):
        assert bench.drain() == [b"first"]
        bench.write(b"second\n")
        assert bench.drain() == [b"first", b"second"]
    assert "cannot be renamed" in str(bench.intake.state.source_problem)
    assert bench.names() == ["events.json"]


def test_a_taken_file_is_deleted_once_no_writer_holds_it(bench: Bench) -> None:
    bench.reopen(rotate_bytes=4)
    with bench.events.open("ab") as late:
        late.write(b"first\n")
        late.flush()
        assert bench.drain() == [b"first"]
        assert bench.names() == ["events.json.1.taken"]
        bench.write(b"third\n")
        assert has_writers(bench.source._file.descriptor) is Writers.SOME  # type: ignore[union-attr]
        assert bench.drain() == [b"first"]
        assert bench.source.waiting_for_writers
        late.write(b"second\nhal")
        late.flush()
        assert bench.drain() == [b"first", b"second"]
    assert bench.drain() == [b"first", b"second", b"hal", b"third"]
    assert bench.names() == ["events.json.2.taken"]
    assert bench.intake.state.lines_read == 4


def test_a_writer_that_never_lets_go_is_named(bench: Bench) -> None:
    with bench.events.open("ab") as holder:
        holder.write(b"a\n")
        holder.flush()
        assert bench.drain() == [b"a"]
        bench.events.rename(bench.events.with_name("old"))
        bench.write(b"b\n")
        assert bench.drain() == [b"a"]
        bench.source._file.renamed_at -= 100  # type: ignore[union-attr, operator]
        assert bench.drain() == [b"a"]
        assert "keep_alive: false" in str(bench.intake.state.source_problem)
        assert not bench.source.waiting_for_writers
    assert bench.drain() == [b"a", b"b"]
    assert bench.intake.state.source_problem is None


def test_without_leases_a_grace_time_decides(bench: Bench) -> None:
    bench.reopen(grace_seconds=0.3, rotate_bytes=4)
    bench.write(b"first\n")
    assert bench.drain() == [b"first"]
    bench.write(b"next\n")
    with mock.patch("fcntl.fcntl", side_effect=OSError(errno.EACCES, "Permission denied")):
        assert bench.drain() == [b"first"]
        time.sleep(0.35)
        assert bench.drain() == [b"first", b"next"]


def test_a_lease_broken_by_a_writer_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    descriptor = os.open(path, os.O_RDONLY)
    real = fcntl.fcntl

    def late_writer(fd: int, command: int, argument: int) -> int:
        result = real(fd, command, argument)
        if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):
            # Not waiting for the lease to go: the kernel sends its signal and refuses.
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        return result

    with mock.patch("fcntl.fcntl", late_writer):
        assert has_writers(descriptor) is Writers.NONE
    with path.open("ab"):
        assert has_writers(descriptor) is Writers.SOME
    os.close(descriptor)


def test_a_taken_file_that_outlived_a_crash_is_not_read_again(bench: Bench) -> None:
    bench.reopen(rotate_bytes=4)
    bench.write(b"first\n")
    bench.drain()
    bench.write(b"x\n")
    with mock.patch.object(Path, "unlink", side_effect=OSError(errno.EIO, "I/O error")):
        assert bench.drain() == [b"first", b"x"]
    assert "events.json.1.taken" in bench.names()
    bench.reopen()
    assert bench.drain() == [b"first", b"x"]
    assert bench.names() == ["events.json"]


def test_files_that_were_taken_before_a_new_spool_come_first(bench: Bench) -> None:
    bench.write(b"3\n")
    bench.events.with_name("events.json.2.taken").write_bytes(b"2")
    bench.events.with_name("events.json.1.taken").write_bytes(b"1\n")
    bench.events.with_name("events.json.x.taken").write_bytes(b"not ours\n")
    bench.events.with_name("events.json.3.taken").mkdir()
    assert bench.drain() == [b"1", b"2", b"3"]
    assert bench.names() == ["events.json", "events.json.3.taken", "events.json.x.taken"]


def test_truncation_is_noticed_by_size_and_by_content(bench: Bench) -> None:
    bench.write(b"first line\n")
    assert bench.drain() == [b"first line"]
    os.truncate(bench.events, 0)
    bench.write(b"2\n")
    assert bench.drain() == [b"first line", b"2"]
    os.truncate(bench.events, 0)
    bench.write(b"a longer third line\n")
    assert bench.drain()[2:] == [b"a longer third line"]
    assert bench.intake.state.truncations == 2
    os.truncate(bench.events, 0)
    bench.reopen()
    assert bench.intake.step()
    assert bench.intake.state.truncations == 1
    bench.reopen()
    bench.write(b"fourth, again longer than the third\n")
    assert bench.drain()[3:] == [b"fourth, again longer than the third"]
    os.truncate(bench.events, 0)
    bench.write(b"fifth, yet longer than the fourth line was\n")
    bench.reopen()
    assert bench.drain()[4:] == [b"fifth, yet longer than the fourth line was"]
    assert bench.intake.state.truncations == 1


def test_lines_of_megabytes_are_carried_and_longer_ones_cut(bench: Bench) -> None:
    big = os.urandom(1 << 20).replace(b"\n", b"-") * 5
    huge = b"y" * (MAX_LINE_BYTES + 3_000_000)
    bench.write(b"a\n" + big + b"\n" + huge)
    assert bench.drain() == [b"a", big]
    bench.write(b"yy\nb\n")
    lines = bench.drain()
    assert lines == [b"a", big, huge[:MAX_LINE_BYTES], b"b"]
    state = bench.intake.state
    assert (state.lines_read, state.lines_cut) == (4, 1)
    assert state.bytes_read == bench.events.stat().st_size


def test_a_full_disk_is_told_and_got_over(bench: Bench) -> None:
    bench.write(b"a\n")
    bench.intake.step()
    with mock.patch("os.write", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        assert not bench.intake.step()
        assert "No space left" in str(bench.intake.state.problem)
        assert not bench.intake.step()
    until(lambda: bench.drain() == [b"a"])
    assert bench.intake.state.problem is None
    assert bench.intake.state.lines_read == 1


def test_running_it_adds_little_delay_and_rests_in_between(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.reopen(rotate_bytes=3000)
    stop = threading.Event()
    thread = threading.Thread(target=bench.intake.run, args=(stop,))
    thread.start()
    try:
        delays = []
        for number in range(60):
            begun = time.monotonic()
            bench.write(b"%d " % number + b"x" * 100 + b"\n")
            assert bench.spool.wait(LineNumber(number), 10)
            delays.append(time.monotonic() - begun)
        # Half a second would be the poll; what is measured here is mostly the disk's sync.
        assert sorted(delays)[len(delays) // 2] < 0.5
        time.sleep(0.2)
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(1.2)
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.1
        # The directory is replaced under the watch.
        bench.events.parent.rename(bench.root / "old-events")
        bench.events.parent.mkdir()
        bench.write(b"in a new directory\n")
        assert bench.spool.wait(LineNumber(60), 10)
        # From its next look on it would sleep for a minute.
        monkeypatch.setattr("sib_agent.spool.intake._POLL_SECONDS", 60.0)
        bench.write(b"the last\n")
        assert bench.spool.wait(LineNumber(61), 10)
    finally:
        stop.set()
        bench.intake.wake()
        thread.join(30)
    assert not thread.is_alive()
    assert [line.split()[0] for line in bench.lines()[:60]] == [b"%d" % n for n in range(60)]


def test_without_inotify_it_polls_and_waits_out_a_full_disk(bench: Bench) -> None:
    stop = threading.Event()
    with mock.patch(
        "sib_agent.spool.intake.INotify", side_effect=OSError(errno.EMFILE, "Too many open files")
    ):
        thread = threading.Thread(target=bench.intake.run, args=(stop,))
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("sib_agent.spool.segments.SegmentWriter.write", side_effect=full):
            thread.start()
            bench.write(b"a\n")
            until(lambda: bench.intake.state.problem is not None)
        assert bench.spool.wait(LineNumber(0), 20)
        stop.set()
        bench.intake.wake()
        thread.join(10)
    assert not thread.is_alive()
