from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sib_protocol.errors import ExitCode
from sib_protocol.events import summarize
from sib_protocol.ids import HostId, HostName, LineNumber, new_host_id, new_stream_id
from sib_protocol.messages import GapReason
from sib_protocol.settings import parse_settings
from sib_server.events.failures import (
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalInUseError,
    JournalMissingError,
    JournalTooNewError,
    JournalUnavailableError,
    NumberRangeError,
    StreamOwnedError,
    TooManyStreamsError,
)
from sib_server.events.incoming import Accepted, IncomingBatch, IncomingGap, Refused
from sib_server.events.integrity import verify
from sib_server.events.journal import Journal
from sib_server.events.kinds import KindBook
from sib_server.events.meta import write_meta
from sib_server.events.reader import JournalReader
from sib_server.events.retention import RetentionPolicy, prune_step, used_bytes
from sib_server.events.settings import JournalSettings
from sib_server.events.stored import Seq
from sib_server.events.writer import JournalWriter, WriterLimits
from tests.support.journal import falco_line

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM, HOST, NAME = new_stream_id(), new_host_id(), HostName("web-1")


def batch(first: int, count: int, *, size: int = 0) -> IncomingBatch:
    lines = [falco_line(number, size=size) for number in range(first, first + count)]
    return IncomingBatch(STREAM, HOST, NAME, LineNumber(first), lines)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "journal.db"


def count(path: Path) -> int:
    with JournalReader(path) as reader:
        return sum(1 for _row in reader.rows("SELECT seq FROM events"))


def test_many_submit_at_once(path: Path) -> None:
    woken: list[Seq] = []

    async def main() -> JournalWriter:
        writer = JournalWriter(Journal.open(path), on_commit=woken.append)

        async def host(n: int) -> None:
            stream, host_id, position = new_stream_id(), new_host_id(), LineNumber(0)
            for _ in range(20):
                lines = [falco_line(n) for _ in range(10)]
                outcome = await writer.submit(
                    IncomingBatch(stream, host_id, HostName(f"h{n}"), position, lines)
                )
                assert isinstance(outcome, Accepted)
                position = outcome.next
            again = IncomingBatch(stream, host_id, HostName(f"h{n}"), LineNumber(190), lines)
            repeated = await writer.submit(again)
            assert isinstance(repeated, Accepted)
            assert (repeated.next, repeated.stored, repeated.skipped) == (200, 0, 10)

        await asyncio.gather(*(host(n) for n in range(10)))
        writer.advance("loki", Seq(77))
        assert await writer.run(lambda journal: journal.last_seq) == 2000
        with pytest.raises(ZeroDivisionError):
            await writer.run(lambda _journal: 1 // 0)
        return writer

    writer = asyncio.run(main())
    writer.close()
    writer.close()
    assert woken[-1] == 2000
    assert woken == sorted(woken)
    # Ten hosts at once, so that their batches share commits.
    assert writer.counts.commits < 210
    assert writer.counts.stored == 2000
    assert writer.counts.skipped == 100
    with JournalReader(path) as reader:
        assert reader.cursor("loki") == 77
        assert reader.lag("loki").events == 2000 - 77
        assert reader.lag("loki", now_ns=time.time_ns() + 10**9).seconds >= 1
        assert reader.lag("nobody").events == 2000
    with pytest.raises(JournalUnavailableError, match="stopping"):
        asyncio.run(writer.submit(batch(0, 1)))


def test_too_much_waits(path: Path) -> None:
    async def main() -> None:
        writer = JournalWriter(Journal.open(path), limits=WriterLimits(waiting_events=10))
        gate = threading.Event()
        task = asyncio.create_task(writer.run(lambda _journal: gate.wait(20)))
        await asyncio.sleep(0.05)
        # More than the limit, but nothing waits: a batch this large must not be refused for ever.
        first = asyncio.create_task(writer.submit(batch(0, 20)))
        await asyncio.sleep(0)
        assert writer.waiting_events == 20
        with pytest.raises(JournalBusyError) as caught:
            await writer.submit(batch(20, 1))
        assert caught.value.retry_after_seconds > 0
        gate.set()
        assert await task
        assert isinstance(await first, Accepted)
        cancelled = asyncio.create_task(writer.submit(batch(20, 1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        # Who no longer waits is stored all the same.
        assert isinstance(await writer.submit(batch(21, 1)), Accepted)
        await asyncio.to_thread(writer.close)

    asyncio.run(main())
    assert count(path) == 22


def test_cursors_become_durable_without_events(path: Path) -> None:
    journal = Journal.open(path)
    writer = JournalWriter(journal)
    writer.advance("loki", Seq(5))
    deadline = time.monotonic() + 10
    with JournalReader(path) as reader:
        while reader.cursor("loki") != 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    writer.close()


def test_an_answer_after_the_loop_is_gone(path: Path) -> None:
    journal = Journal.open(path)
    writer = JournalWriter(journal)
    gate = threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(writer.run(lambda _journal: gate.wait(20)))
        await asyncio.sleep(0.02)
        late = asyncio.create_task(writer.submit(batch(0, 3)))
        await asyncio.sleep(0)
        assert not task.done()
        assert not late.done()

    asyncio.run(leave())
    gate.set()
    writer.close()
    assert count(path) == 3


def test_a_full_disk_leaves_everything_as_it_was(path: Path) -> None:
    async def main() -> None:
        writer = JournalWriter(Journal.open(path, max_bytes=1024 * 1024))
        taken = 0
        with pytest.raises(JournalUnavailableError, match="SQLITE_FULL"):  # noqa: PT012 -- which of them fails is not the point
            for _ in range(2000):
                outcome = await writer.submit(batch(taken, 50, size=500))
                assert isinstance(outcome, Accepted)
                taken = outcome.next
        writer.advance("loki", Seq(taken))
        assert writer.counts.failures == 1
        last = await writer.run(lambda journal: journal.last_seq)
        assert last == taken
        # Once there is room again the same batch goes in.
        policy = RetentionPolicy(None, 256 * 1024)
        await asyncio.sleep(1.2)
        step = await writer.run(
            lambda journal: prune_step(journal, policy, sinks=["loki"], now_ns=0)
        )
        assert step.pruned
        outcome = await writer.submit(batch(taken, 50, size=500))
        assert isinstance(outcome, Accepted)
        assert (outcome.next, outcome.last_seq) == (taken + 50, taken + 50)
        await asyncio.to_thread(writer.close)

    asyncio.run(main())
    assert verify(path).whole


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a tiny tmpfs needs root and mount")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False, timeout=20
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


def test_a_really_full_disk(tiny_disk: Path) -> None:
    path = tiny_disk / "journal.db"
    journal = Journal.open(path)
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"\0" * 1024 * 1024)
    taken = 0
    with pytest.raises(JournalUnavailableError) as caught:  # noqa: PT012 -- likewise
        for _ in range(2000):
            journal.append([batch(taken, 20, size=500)])
            taken += 20
    assert caught.value.exit_code is ExitCode.FILE_ACCESS
    assert taken
    with pytest.raises(JournalUnavailableError):
        journal.append([batch(taken, 20, size=500)])
    assert journal.next_number(STREAM) == taken
    ballast.unlink()
    journal.append([batch(taken, 20, size=500)])
    journal.close()
    assert count(path) == taken + 20
    assert verify(path).whole


CHILD = """
import sys
from pathlib import Path
from sib_protocol.ids import *
from sib_server.events.incoming import *
from sib_server.events.journal import Journal
path, stream, host = Path(sys.argv[1]), StreamId(sys.argv[2]), HostId(sys.argv[3])
journal = Journal.open(path)
number = journal.next_number(stream) or LineNumber(0)
print("next", number, flush=True)
while True:
    lines = [b'{"rule":"r","n":%d}' % n for n in range(number, number + 7)]
    number = journal.append([IncomingBatch(stream, host, HostName("h"), number, lines)])[0].next
    print("acknowledged", number, flush=True)
"""


def test_kill_at_any_instant(path: Path) -> None:
    acknowledged = 0
    for round_ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), STREAM, HOST],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[4],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        )
        assert child.stdout is not None
        assert int(child.stdout.readline().split()[1]) >= acknowledged
        threading.Timer(0.05 + 0.03 * round_, child.send_signal, [signal.SIGKILL]).start()
        # A line that the kill cut in two was not heard by anybody.
        heard = [line for line in child.stdout.read().splitlines(keepends=True) if b"\n" in line]
        child.stdout.close()
        assert child.wait(20) == -signal.SIGKILL
        if heard:
            acknowledged = int(heard[-1].split()[1])
        with JournalReader(path) as reader:
            numbers = [row[0] for row in reader.rows("SELECT number FROM events ORDER BY seq")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= acknowledged
    assert acknowledged
    assert verify(path).whole


def test_one_writer_only(path: Path) -> None:
    journal = Journal.open(path)
    with pytest.raises(JournalInUseError) as caught:
        Journal.open(path)
    assert caught.value.exit_code is ExitCode.CONFLICT
    journal.close()
    Journal.open(path).close()


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(JournalMissingError) as missing:
        JournalReader(tmp_path / "none.db")
    assert missing.value.exit_code is ExitCode.NOT_FOUND
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalUnavailableError):
        Journal.open(tmp_path / "file" / "journal.db")
    (tmp_path / "directory.db").mkdir()
    with pytest.raises(JournalUnavailableError):
        Journal.open(tmp_path / "directory.db")
    (tmp_path / "text.db").write_text("not a database at all" * 300)
    with pytest.raises(JournalDamagedError):
        Journal.open(tmp_path / "text.db")
    with pytest.raises(JournalDamagedError):
        JournalReader(tmp_path / "text.db")
    # A strange name must not become part of the address that SQLite opens.
    odd = tmp_path / "a?mode=rw#%41.db"
    Journal.open(odd).close()
    JournalReader(odd).close()


@pytest.mark.parametrize(
    ("version", "error"),
    [("99", JournalTooNewError), ("0", JournalDamagedError), ("one", JournalDamagedError)],
)
def test_another_schema_is_not_guessed_at(
    path: Path, version: str, error: type[JournalError]
) -> None:
    journal = Journal.open(path)
    with journal.transaction() as connection:
        write_meta(connection, "schema", version)
    journal.close()
    with pytest.raises(error, match=version):
        Journal.open(path)
    with pytest.raises(error, match=version):
        JournalReader(path)
    assert not verify(path).whole


def test_what_is_refused(path: Path) -> None:
    journal = Journal.open(path)
    journal.append([batch(0, 1)])
    others = new_host_id()
    asked: list[IncomingBatch | IncomingGap] = [
        IncomingBatch(STREAM, others, NAME, LineNumber(1), [b"x"]),
        batch(1, 1),
        IncomingBatch(journal.own_stream, others, NAME, LineNumber(0), [b"x"]),
        IncomingBatch(journal.own_stream, journal.journal_id, NAME, LineNumber(0), [b"x"]),
        IncomingGap(STREAM, others, NAME, LineNumber(2), LineNumber(3), GapReason.DAMAGE),
        IncomingGap(STREAM, HOST, NAME, LineNumber(2), LineNumber(1), GapReason.DAMAGE),
        IncomingBatch(STREAM, HOST, NAME, LineNumber(-1), [b"x"]),
        IncomingBatch(STREAM, HOST, NAME, LineNumber(2**63), [b"x"]),
    ]
    outcomes = journal.append(asked)
    refusals = [outcome.error for outcome in outcomes if isinstance(outcome, Refused)]
    assert [type(error) for error in refusals] == [StreamOwnedError] * 4 + [NumberRangeError] * 3
    assert all(error.exit_code is ExitCode.REFUSED for error in refusals)
    assert isinstance(outcomes[1], Accepted)
    assert journal.last_seq == 2
    journal.close()


def test_a_host_begins_so_many_streams_and_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sib_server.events.journal.MOST_STREAMS", 3)

    def begin(journal: Journal, host: HostId, many: int) -> list[type]:
        entries = [
            IncomingBatch(new_stream_id(), host, NAME, LineNumber(0), [b"x"]) for _ in range(many)
        ]
        return [
            type(outcome.error) if isinstance(outcome, Refused) else type(outcome)
            for outcome in journal.append(entries)
        ]

    journal = Journal.open(path)
    assert begin(journal, HOST, 2) == [Accepted] * 2
    assert begin(journal, HOST, 2) == [Accepted, TooManyStreamsError]
    gap = IncomingGap(new_stream_id(), HOST, NAME, LineNumber(0), LineNumber(1), GapReason.DAMAGE)
    (refused,) = journal.append([gap])
    assert isinstance(refused, Refused)
    # Others, and the server itself, are none the worse for it; nor are the streams that it has.
    assert begin(journal, new_host_id(), 1) == [Accepted]
    assert begin(journal, journal.journal_id, 5) == [Accepted] * 5
    journal.close()
    journal = Journal.open(path)
    assert begin(journal, HOST, 1) == [TooManyStreamsError]
    journal.close()


def test_kinds_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sib_server.events.kinds.MOST_KINDS", 3)
    journal = Journal.open(path)
    lines = [b'{"rule":"r%d","time":"2026-11-25T00:00:00Z"}' % (number % 6) for number in range(12)]
    lines.append(b'{"rule":"%s"}' % (b"x" * 5000))
    journal.append([IncomingBatch(STREAM, HOST, NAME, LineNumber(0), lines)])
    with JournalReader(path) as reader:
        events = reader.read(Seq(0))
        assert [event.line for event in events] == lines
        assert events[5].summary.rule == "r5"
        assert events[5].summary.time_ns
        assert len(reader.kinds()) == 3
    journal.close()


def test_a_failed_commit_forgets_its_kinds() -> None:
    kinds = KindBook({}, 0)
    assert kinds.ref(summarize(b'{"rule":"a"}')) == 1
    kinds.rollback()
    assert kinds.staged_rows() == []
    assert kinds.ref(summarize(b'{"rule":"a"}')) == 2
    assert [row[:2] for row in kinds.staged_rows()] == [(2, b"a")]


def test_an_unexpected_failure_answers_everybody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        journal = Journal.open(path)
        writer = JournalWriter(journal)
        monkeypatch.setattr(journal, "_clock_ns", lambda: "not a time")
        with pytest.raises(struct.error):
            await writer.submit(batch(0, 1))
        monkeypatch.setattr(journal, "_clock_ns", time.time_ns)
        assert isinstance(await writer.submit(batch(0, 1)), Accepted)
        await asyncio.to_thread(writer.close)

    asyncio.run(main())
    assert count(path) == 1


def test_retention(path: Path) -> None:
    now = 0
    journal = Journal.open(path, clock_ns=lambda: now)
    journal.append([batch(0, 700)])
    now = 100
    journal.append([batch(700, 700)])
    old = RetentionPolicy(50, None)
    kept = prune_step(journal, old, sinks=["loki"], now_ns=100)
    assert (kept.pruned, kept.more, kept.held_back) == (0, False, True)
    journal.append([], {"loki": Seq(600), "gone": Seq(2)})
    steps = [prune_step(journal, old, sinks=["loki"], now_ns=100) for _ in range(3)]
    assert [step.pruned for step in steps] == [500, 100, 0]
    assert [step.held_back for step in steps] == [False, True, True]
    steps = [prune_step(journal, old, sinks=[], now_ns=100) for _ in range(2)]
    assert [step.pruned for step in steps] == [100, 0]
    assert not steps[1].held_back
    # By size, down to the newest event, which stays: its place must not be given away again.
    tiny = RetentionPolicy(None, 1)
    while prune_step(journal, tiny, sinks=[], now_ns=100).more:
        pass
    with journal.transaction() as connection:
        used = used_bytes(connection)
    assert used < 200_000
    journal.close()
    assert count(path) == 1
    journal = Journal.open(path)
    assert journal.last_seq == 1400
    journal.close()


def test_a_prune_step_is_short_for_large_events(path: Path) -> None:
    journal = Journal.open(path)
    journal.append([batch(0, 20, size=1024 * 1024)])
    step = prune_step(journal, RetentionPolicy(None, 1), sinks=[], now_ns=0)
    assert (step.pruned, step.more) == (4, True)
    journal.close()


def test_readable_without_leave_to_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may read the file, but make no file beside it, still can search."""
    journal = Journal.open(path)
    journal.append([batch(0, 3)])
    journal.close()
    if os.geteuid() == 0:
        # Root may write anywhere: let the first way fail as it does for others.
        real = sqlite3.connect

        def connect(name: str, **options: Any) -> sqlite3.Connection:
            if not name.endswith("immutable=1"):
                raise sqlite3.OperationalError("unable to open database file")
            connection: sqlite3.Connection = real(name, **options)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connect)
    else:
        path.parent.chmod(0o500)
    assert count(path) == 3
    path.parent.chmod(0o700)


def test_settings(tmp_path: Path) -> None:
    text = "path: /tmp/x.db\nretention_days: 1.5\nwaiting_events: 7\n"
    settings = parse_settings(text, JournalSettings, tmp_path)
    assert settings.path == Path("/tmp/x.db")
    assert settings.retention() == RetentionPolicy(36 * 3600 * 10**9, 20 * 1024**3)
    assert settings.limits().waiting_events == 7
    forever = parse_settings("retention_days: null", JournalSettings, tmp_path)
    assert forever.retention().max_age_ns is None
    assert os.fspath(forever.path).startswith("/var/lib/sib")
