"""Bytes on disk that are not what was written: detected, reported, and no whole event is lost.

An event is *hit* by a flipped bit when the bit lies in the bytes that hold it: its cell on the leaf
page (two sizes, record header, values, overflow pointer) or its parts of overflow pages.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_protocol.errors import ExitCode, FileAccessError
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId, new_host_id, new_stream_id
from sib_protocol.messages import GapReason
from sib_server.events import carve
from sib_server.events.damage import DAMAGE_RULE, DamageLog, JournalDamage, damage_event
from sib_server.events.failures import (
    JournalDamagedError,
    JournalError,
    JournalInUseError,
    JournalMissingError,
    JournalUnavailableError,
)
from sib_server.events.incoming import Accepted, IncomingBatch, IncomingGap, Wanted
from sib_server.events.integrity import verify
from sib_server.events.journal import Journal
from sib_server.events.query import PriorityFilter, Query
from sib_server.events.raw import RawPages
from sib_server.events.reader import JournalReader
from sib_server.events.retention import RetentionPolicy, prune_step
from sib_server.events.rows import check_event
from sib_server.events.salvage import salvage
from sib_server.events.schema import PAGE_SIZE
from sib_server.events.search import search
from sib_server.events.stored import Seq, StoredEvent
from tests.support.journal import falco_line

if TYPE_CHECKING:
    pass

EVENTS = 160
BIG = {17, 60, 61, 150}
Spans = dict[int, tuple[carve.Span, ...]]


def fill(path: Path) -> None:
    journal = Journal.open(path, clock_ns=lambda: 1_700_000_000_000_000_000)
    streams = [(new_stream_id(), new_host_id(), HostName(f"web-{n}")) for n in range(4)]
    for number in range(EVENTS // 4):
        journal.append(
            [
                IncomingBatch(
                    stream, host, name, LineNumber(number),
                    [falco_line(number, rule=f"r{number % 5}",
                                size=20_000 if number * 4 + n in BIG else 300)],
                )
                for n, (stream, host, name) in enumerate(streams)
            ],
            {"loki": Seq(number)},
        )  # fmt: skip
    journal.close()


def read_all(path: Path) -> list[StoredEvent]:
    with JournalReader(path) as reader:
        events: list[StoredEvent] = []
        while part := reader.read(events[-1].seq if events else Seq(0)):
            events.extend(part)
        return events


def spans_of(path: Path) -> Spans:
    spans: Spans = {}
    with RawPages(path) as pages:
        for index in range(pages.count):
            for cell in carve.find_cells(
                pages.page(index) or b"",
                index + 1,
                carve.EVENTS,
                lambda number: pages.page(number - 1),
            ):
                with suppress(Exception):
                    check_event((cell.rowid, *cell.values[1:]))
                    spans[cell.rowid] = cell.spans
    return spans


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StoredEvent], Spans]:
    path = tmp_path_factory.mktemp("whole") / "journal.db"
    fill(path)
    assert not path.with_name("journal.db-wal").exists()
    return path, read_all(path), spans_of(path)


def test_every_event_has_its_own_bytes(whole: tuple[Path, list[StoredEvent], Spans]) -> None:
    _path, events, spans = whole
    assert [event.seq for event in events] == list(range(1, EVENTS + 1))
    assert spans.keys() == {event.seq for event in events}
    taken: set[tuple[int, int]] = set()
    for event in events:
        own = {(page, at) for page, start, end in spans[event.seq] for at in range(start, end)}
        assert len(own) > len(event.line)
        assert taken.isdisjoint(own)
        taken |= own


FLIPS = st.lists(
    st.tuples(
        st.sampled_from(("anywhere", "page start", "file header")),
        st.integers(0, 2**32 - 1),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=3,
)
"""Where, a number that says where exactly, and which bit; page headers and the file's header are
hit often enough. Nothing in it depends on the file, so that a failure can be drawn again."""


def place(where: str, number: int, size: int) -> int:
    """The offset in a file of ``size`` bytes."""
    if where == "file header":
        return number % 100
    if where == "page start":
        return number % (size // PAGE_SIZE) * PAGE_SIZE + (number >> 16) % 25
    return number % size


@settings(max_examples=150, deadline=None)
@given(drawn=FLIPS)
def test_flipped_bits(
    whole: tuple[Path, list[StoredEvent], Spans], drawn: list[tuple[str, int, int]]
) -> None:
    path, events, spans = whole
    size = path.stat().st_size
    at = {place(where, number, size): 1 << bit for where, number, bit in drawn}
    with tempfile.TemporaryDirectory() as folder:
        check_flips(path, events, spans, list(at.items()), Path(folder))


def check_flips(
    path: Path,
    events: list[StoredEvent],
    spans: Spans,
    drawn: list[tuple[int, int]],
    folder: Path,
) -> None:
    content = bytearray(path.read_bytes())
    hit: set[int] = set()
    for offset, mask in drawn:
        content[offset] ^= mask
        page, at = offset // PAGE_SIZE + 1, offset % PAGE_SIZE
        hit |= {
            seq
            for seq, parts in spans.items()
            if any(number == page and start <= at < end for number, start, end in parts)
        }
    damaged = folder / "journal.db"
    damaged.write_bytes(content)

    # What is handed out is whole, and whatever is missing is reported.
    original = {event.seq: event for event in events}
    reported: set[int] = set()

    def note(damage: JournalDamage) -> None:
        reported.update(range(damage.first, damage.last + 1))

    readable: set[int] = set()
    try:
        with JournalReader(damaged, on_damage=note) as reader:
            after = Seq(0)
            while part := reader.read(after, max_events=50):
                assert all(event == original[event.seq] for event in part)
                readable.update(event.seq for event in part)
                after = part[-1].seq
            for query in (
                Query(),
                Query(priority=PriorityFilter.parse("error")),
                Query(host="web-1"),
            ):
                assert all(event == original[event.seq] for event in search(reader, query))
    except JournalError:
        readable = set()
    if readable != original.keys() or hit - readable:
        assert not verify(damaged).whole

    # A salvage brings back all that were not hit, and makes nothing up.
    fresh = folder / "fresh.db"
    report = salvage(damaged, fresh)
    saved = {event.seq: event for event in read_all(fresh)}
    assert report.events == len(saved)
    assert all(event == original[seq] for seq, event in saved.items())
    assert original.keys() - hit <= saved.keys()
    assert verify(fresh).whole
    journal = Journal.open(fresh)
    assert journal.last_seq >= max(saved)
    for event in saved.values():
        assert (journal.next_number(event.event_id.stream) or 0) > event.event_id.number
    journal.close()


def test_destroyed_pages(whole: tuple[Path, list[StoredEvent], Spans], tmp_path: Path) -> None:
    """The file's header, every page header and the whole tree above the leaves are gone."""
    path, events, spans = whole
    content = bytearray(path.read_bytes())
    leaves = {page for parts in spans.values() for page, _start, _end in parts}
    overflow = {page for parts in spans.values() for page, _start, _end in parts[1:]}
    for page in range(1, len(content) // PAGE_SIZE + 1):
        start = (page - 1) * PAGE_SIZE
        if page in overflow:
            continue
        length = 8 + 2 * 4 if page in leaves else PAGE_SIZE
        content[start : start + length] = os.urandom(length)
    damaged = tmp_path / "journal.db"
    damaged.write_bytes(content)
    with pytest.raises(JournalDamagedError) as caught:
        JournalReader(damaged)
    assert caught.value.exit_code is ExitCode.DAMAGED
    with pytest.raises(JournalDamagedError):
        Journal.open(damaged)
    assert not verify(damaged).whole
    report = salvage(damaged, tmp_path / "fresh.db")
    assert read_all(tmp_path / "fresh.db") == events
    assert (report.events, report.carved, report.read) == (EVENTS, EVENTS, 0)
    assert not report.identity_kept
    assert damaged.read_bytes() == content


def test_salvage_takes_the_log_too(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    stream, host = new_stream_id(), new_host_id()
    name = HostName("web-1")
    for number in range(40):
        journal.append(
            [IncomingBatch(stream, host, name, LineNumber(number), [falco_line(number)])],
            {"loki": Seq(3)},
        )
    copy = tmp_path / "copy"
    copy.mkdir()
    log = bytearray((tmp_path / "journal.db-wal").read_bytes())
    shutil.copyfile(path, copy / "journal.db")
    journal.close()
    # A bit early in the log: SQLite gives up everything behind it, though it was acknowledged.
    frame = 32 + 30 * (24 + PAGE_SIZE)
    log[frame + 24 + 1000] ^= 1
    (copy / "journal.db-wal").write_bytes(log)
    fresh = tmp_path / "fresh.db"
    report = salvage(copy / "journal.db", fresh)
    assert report.events == 40
    assert report.carved > 0
    assert [event.event_id.number for event in read_all(fresh)] == list(range(40))
    journal = Journal.open(fresh)
    assert journal.next_number(stream) == 40
    assert JournalReader(fresh).cursor("loki") == 3
    journal.close()


def test_salvage_never_passes_over_a_hole_in_the_log(tmp_path: Path) -> None:
    """What may never have been acknowledged is asked for again, and taken once."""
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    stream, host, name = new_stream_id(), new_host_id(), HostName("web-1")
    lines = [falco_line(number, size=3000) for number in range(10)]
    journal.append([IncomingBatch(stream, host, name, LineNumber(0), lines)])
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copyfile(path, copy / "journal.db")
    log = bytearray((tmp_path / "journal.db-wal").read_bytes())
    journal.close()
    at = log.index(lines[4][:60])
    while at >= 0:
        log[at] ^= 0xFF
        at = log.find(lines[4][:60])
    # The log as a whole is not valid any more, so nothing in it is known to be acknowledged.
    (copy / "journal.db-wal").write_bytes(log)
    fresh = tmp_path / "fresh.db"
    assert salvage(copy / "journal.db", fresh).events == 9
    journal = Journal.open(fresh)
    (asked,) = journal.append([IncomingBatch(stream, host, name, LineNumber(10), [b"later"])])
    assert asked == Wanted(LineNumber(4))
    (taken,) = journal.append([IncomingBatch(stream, host, name, LineNumber(0), lines)])
    assert isinstance(taken, Accepted)
    assert taken.next == 10
    journal.close()
    numbers = sorted(event.event_id.number for event in read_all(fresh))
    assert numbers == list(range(10))
    assert sorted(event.line for event in read_all(fresh)) == sorted(lines)


def test_salvage_never_gives_an_own_number_twice(tmp_path: Path) -> None:
    """The server's own events are sent by nobody again: a hole among them stays one."""
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    for number in range(6):
        journal.record(falco_line(number, rule="SIB test", size=3000))
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copyfile(path, copy / "journal.db")
    log = (tmp_path / "journal.db-wal").read_bytes()
    journal.close()
    (copy / "journal.db-wal").write_bytes(log.replace(b"event 2 ", b"event X "))
    fresh = tmp_path / "fresh.db"
    assert salvage(copy / "journal.db", fresh).events == 5
    journal = Journal.open(fresh)
    assert journal.record(b"{}").next == 7
    journal.close()
    assert [event.event_id.number for event in read_all(fresh)] == [0, 1, 3, 4, 5, 6]


def test_salvage_refuses(whole: tuple[Path, list[StoredEvent], Spans], tmp_path: Path) -> None:
    path, _events, _spans = whole
    with pytest.raises(JournalMissingError):
        salvage(tmp_path / "none.db", tmp_path / "fresh.db")
    with pytest.raises(FileAccessError):
        salvage(path, path)
    with pytest.raises(JournalUnavailableError) as caught:
        salvage(path, tmp_path / "missing" / "fresh.db")
    assert caught.value.exit_code is ExitCode.FILE_ACCESS
    mine = tmp_path / "journal.db"
    journal = Journal.open(mine)
    with pytest.raises(JournalInUseError):
        salvage(mine, tmp_path / "fresh.db")
    journal.close()


def _spoil(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_damaged_stream_row_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    fill(path)
    events = read_all(path)
    stream = events[0].event_id.stream
    _spoil(path, "UPDATE streams SET next = 7 WHERE ref = 1", "DELETE FROM streams WHERE ref = 2")
    assert any("streams" in problem for problem in verify(path).structure)
    journal = Journal.open(path)
    assert journal.rebuilt_streams == 2
    assert journal.next_number(stream) == EVENTS // 4
    assert journal.next_number(events[1].event_id.stream) == EVENTS // 4
    journal.close()


def test_damage_beside_the_events_costs_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    fill(path)
    events = read_all(path)
    _spoil(
        path,
        "UPDATE kinds SET rule = x'00' WHERE kind = 2",
        "UPDATE origins SET identity = 'text' WHERE ref = 1",
        "UPDATE cursors SET seq = 1000",
        "UPDATE minutes SET first_seq = 9",
    )
    report = verify(path)
    assert len(report.structure) == 5
    assert report.events == EVENTS
    assert read_all(path) == events
    with JournalReader(path) as reader:
        assert reader.cursor("loki") == 0
        assert len(list(search(reader, Query(rule="r1", since_ns=0)))) == EVENTS // 5
        assert len(list(search(reader, Query(host="web-1")))) == EVENTS // 4
    journal = Journal.open(path)
    first = events[0]
    more = LineNumber(EVENTS // 4), [falco_line(1, rule="r1")]
    journal.append([IncomingBatch(first.event_id.stream, first.host_id, first.host_name, *more)])
    assert journal.last_seq == EVENTS + 1
    journal.close()


def test_the_journals_own_values_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    fill(path)
    _spoil(path, "UPDATE meta SET value = 'x' WHERE CAST(name AS TEXT) = 'stream'")
    with pytest.raises(JournalDamagedError, match="identity"):
        Journal.open(path)
    assert "stream" in verify(path).structure[0]
    report = salvage(path, tmp_path / "fresh.db")
    assert (report.events, report.identity_kept) == (EVENTS, False)


def test_damage_is_told_once_and_as_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[JournalDamage] = []
    log = DamageLog(told.append)
    damage = JournalDamage(Seq(3), Seq(5), None, "its checksum does not match")
    log(damage)
    log(damage)
    assert told == [damage]
    assert log.events == 3
    monkeypatch.setattr("sib_server.events.damage._REMEMBERED", 1)
    log(JournalDamage(Seq(6), Seq(6), None, "x"))
    log(damage)
    assert len(told) == 3
    assert DAMAGE_RULE.encode() in damage_event(damage, 1)
    assert b"event 3 " in damage_event(JournalDamage(Seq(3), Seq(3), None, "x"), 1)


@pytest.fixture
def broken_interior(tmp_path: Path) -> Path:
    """The root of the events' tree is destroyed; its leaves are whole."""
    path = tmp_path / "journal.db"
    fill(path)
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'events'"
        ).fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * PAGE_SIZE] = 0x77
    path.write_bytes(content)
    return path


def test_a_destroyed_root_is_reported_and_salvaged(broken_interior: Path, tmp_path: Path) -> None:
    damage: list[JournalDamage] = []
    with JournalReader(broken_interior, on_damage=damage.append) as reader:
        assert reader.read(Seq(0)) == []
        assert {one.first for one in damage} == set(range(1, EVENTS + 1))
        with pytest.raises(JournalDamagedError):
            _ = reader.last_seq
        assert list(search(reader, Query())) == []
        assert list(search(reader, Query(rule="r1", newest_first=False))) == []
    report = salvage(broken_interior, tmp_path / "fresh.db")
    assert report.events == EVENTS
    assert report.identity_kept


def test_a_damaged_place_leads_no_reader_past_a_whole_event(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    fill(path)
    events = read_all(path)
    content = bytearray(path.read_bytes())
    spans = spans_of(path)
    hidden = []
    for seq, mask in itertools.product(range(100, 108), (0x02, 0x10, 0x40)):
        page, start, _end = spans[seq][0]
        at = (page - 1) * PAGE_SIZE + start
        # The cell's payload size takes two bytes, its rowid the next one.
        spoilt = bytearray(content)
        spoilt[at + 2] ^= mask
        path.write_bytes(spoilt)
        damage: list[JournalDamage] = []
        with JournalReader(path, on_damage=damage.append) as reader:
            for start, step in itertools.product(range(94, 112, 2), (1, 5)):
                got: list[StoredEvent] = []
                while len(got) < 30 and (
                    part := reader.read(got[-1].seq if got else Seq(start), max_events=step)
                ):
                    got.extend(part)
                wanted = [event for event in events if event.seq > start and event.seq != seq]
                if got != wanted[: len(got)] or len(got) < 30:
                    hidden.append((seq, mask, start, step))
        assert damage
    assert hidden == []


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    fill(path)
    reader = JournalReader(path)
    reader.close()
    for ask in (
        lambda: reader.read(Seq(0)),
        lambda: reader.row_at(1),
        reader.cursors,
        reader.kinds,
        lambda: reader.streams_of("web-1"),
        lambda: reader.bounds(Query()),
        lambda: reader.first_seq,
    ):
        with pytest.raises(JournalUnavailableError):
            ask()


STREAM = StreamId("00000000-0000-4000-8000-000000000001")
HOST = HostId("00000000-0000-4000-9000-000000000001")


def test_a_salvage_brings_back_nothing_that_was_pruned(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path, clock_ns=lambda: 0)
    lines = [falco_line(number) for number in range(50)]
    journal.append([IncomingBatch(STREAM, HOST, HostName("h"), LineNumber(0), lines)])
    journal.append(
        [IncomingGap(STREAM, HOST, HostName("h"), LineNumber(50), LineNumber(59), GapReason.QUOTA)]
    )
    prune_step(journal, RetentionPolicy(1, None), sinks=[], now_ns=10)
    journal.close()
    salvage(path, tmp_path / "fresh.db")
    assert [event.seq for event in read_all(tmp_path / "fresh.db")] == [51]
    journal = Journal.open(tmp_path / "fresh.db")
    assert journal.next_number(STREAM) == 60
    journal.close()


def test_a_schema_that_is_no_text_is_damage_too(tmp_path: Path) -> None:
    """SQLite quotes the damaged words in its message, and Python cannot decode them."""
    path = tmp_path / "journal.db"
    fill(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"events_by_kind")
    content[at + 3] = 0xC5
    content[content.index(b"CREATE INDEX events_by_kind")] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamagedError):
        JournalReader(path)
    with pytest.raises(JournalDamagedError):
        Journal.open(path)
    assert not verify(path).whole
    assert salvage(path, tmp_path / "fresh.db").events == EVENTS
