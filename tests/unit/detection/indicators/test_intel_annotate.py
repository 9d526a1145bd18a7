from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import FileAccessError
from sib_server.detection.indicators import annotate as annotating
from sib_server.detection.indicators import sightings
from sib_server.detection.indicators.annotate import Annotator
from sib_server.detection.indicators.kinds import Kind, Observable, recognise
from sib_server.detection.indicators.merge import Sighting
from sib_server.detection.indicators.sightings import Meeting, SightingBook
from sib_server.detection.indicators.store import FILE_NAME, update_lock, writing
from sib_server.events.sinks.falcosidekick_payload import outgoing
from sib_server.events.sinks.loki_push import EventEncoder
from sib_server.events.stored import StoredEvent
from tests.fakes.events import alert, stored

NOW = 1_795_000_000
DAY = 86_400


def indicators(directory: Path, **told: tuple[str, int]) -> None:
    """Make a generation of indicators: feed -> (value, confidence)."""
    with update_lock(directory), writing(directory, NOW) as writer:
        for feed, (value, confidence) in told.items():
            observable = recognise(value)
            assert observable is not None
            sighting = Sighting(
                feed, NOW - 9 * DAY, NOW - 3 * DAY, NOW, NOW + 10**9, confidence, "QakBot"
            )
            writer.merge(feed, {observable: sighting})


def connection(number: int, far: str, host: str = "web-1") -> StoredEvent:
    fields = {"fd.name": f"10.0.0.5:40112->{far}:443", "sib.intel.feeds": "what the host says"}
    line = alert(number, NOW * 10**9, output_fields=fields)
    return stored(number, line=line, host=host)


def test_events_that_meet_an_indicator_leave_with_what_is_known_of_it(tmp_path: Path) -> None:
    indicators(tmp_path, feodo=("45.66.77.88", 90), drop=("45.66.64.0/20", 60))
    annotate = Annotator(tmp_path, "journal", lambda: NOW)
    events = [connection(0, "45.66.77.88"), connection(1, "9.9.9.9"), connection(2, "45.66.77.88")]
    first, quiet, again = annotate(events)
    assert quiet is events[1]
    assert dict(first.notes) == {
        "sib.intel.indicator": "45.66.77.88",
        "sib.intel.kind": "address",
        "sib.intel.field": "fd.name",
        "sib.intel.feeds": "feodo",
        "sib.intel.confidence": "90",
        "sib.intel.first_seen": "2026-11-09",
        "sib.intel.age_days": "3",
        "sib.intel.notes": "QakBot",
        "sib.intel.more": "1",
    }
    assert dict(again.notes)["sib.intel.seen_before"] == "web-1: 1 since 2026-11-18"
    assert first.line == events[0].line
    assert annotate.met == 2

    # To both sinks, and what the host wrote under the same names to none.
    fields = json.loads(outgoing(first).body)["output_fields"]
    assert fields["sib.intel.feeds"] == "feodo"
    assert "sib.intel.feeds" not in json.loads(outgoing(quiet).body)["output_fields"]
    wire = EventEncoder(["syscall"]).encode(first).wire
    assert b"sib_intel_indicator" in wire
    assert b"sib_intel" not in EventEncoder(["syscall"]).encode(quiet).wire
    annotate.close()


def test_a_slower_sink_is_told_the_same_and_counts_nothing_twice(tmp_path: Path) -> None:
    indicators(tmp_path, feodo=("45.66.77.88", 90))
    annotate = Annotator(tmp_path, "journal", lambda: NOW)
    events = [connection(n, "45.66.77.88", host=f"web-{n % 8}") for n in range(20)]
    quick = annotate(events)
    slow = annotate(events[:7]) + annotate(events[7:])
    assert slow == quick
    annotate.close()
    # After a restart too, where nothing is remembered but the file.
    annotate = Annotator(tmp_path, "journal", lambda: NOW)
    annotate(events)
    (last,) = annotate([connection(20, "45.66.77.88")])
    seen = dict(last.notes)["sib.intel.seen_before"]
    assert seen.count(": 3 since") + seen.count(": 2 since") == 5
    assert seen.endswith("; and 3 hosts more")
    annotate.close()


def test_a_newer_generation_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotating, "_LOOK_SECONDS", 0.0)
    annotate = Annotator(tmp_path, "journal", lambda: NOW)
    (before,) = annotate([connection(0, "45.66.77.88")])
    indicators(tmp_path, feodo=("45.66.77.88", 90))
    (after,) = annotate([connection(1, "45.66.77.88")])
    assert not before.notes
    assert after.notes
    # A damaged one costs notes, not events; they come back with the next whole one.
    (tmp_path / FILE_NAME).write_bytes(b"no database")
    events = [connection(2, "45.66.77.88")]
    assert annotate(events) is events
    assert annotate.problem
    indicators_again = tmp_path / FILE_NAME
    indicators_again.unlink()
    indicators(tmp_path, feodo=("45.66.77.88", 90))
    assert annotate(events)[0].notes
    assert annotate.problem is None
    annotate.close()


def test_a_damaged_book_costs_notes_only(tmp_path: Path) -> None:
    indicators(tmp_path, feodo=("45.66.77.88", 90))
    (tmp_path / sightings.FILE_NAME).write_bytes(b"no database at all" * 100)
    annotate = Annotator(tmp_path, "journal", lambda: NOW)
    events = [connection(0, "45.66.77.88")]
    assert annotate(events) is events
    assert "sightings.db" in (annotate.problem or "")
    annotate.close()


def meeting(seq: int, host: str, moment: int = 5) -> Meeting:
    return Meeting(Observable(Kind.DOMAIN, "bad.net"), host, seq, moment, f"s/{seq}")


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 7))
def test_counting_is_once_an_event_in_whatever_pieces_it_comes(
    tmp_path_factory: pytest.TempPathFactory, rereads: list[int], size: int
) -> None:
    """Sinks begin again anywhere below what they had; the sum stays the number of events."""
    directory = tmp_path_factory.mktemp("book")
    book = SightingBook(directory, "j")
    for start in (1, *rereads):
        upper = min(30, start + size)
        # A sink never passes over an event, so the leading one begins right above what is counted.
        low = min(start, book.counted_to + 1)
        book.record([meeting(seq, f"h{seq % 3}") for seq in range(low, upper + 1)], upper)
    counted_to = book.counted_to
    (seen,) = book.record([meeting(10**6, "h0")], counted_to)
    assert sum(each.events for each in seen) == counted_to
    book.close()


def test_the_book_is_bounded_and_survives_another_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sightings, "MOST_PAIRS", 3)
    monkeypatch.setattr(sightings, "_PRUNE_EVERY", 1)
    book = SightingBook(tmp_path, "one")
    for seq in range(1, 7):
        book.record([meeting(seq, f"h{seq}", moment=seq)], seq)
    book.close()
    book = SightingBook(tmp_path, "two")
    assert book.counted_to == 0
    (seen,) = book.record([meeting(1, "new", moment=99)], 1)
    assert [each.host for each in seen] == ["h6", "h5", "h4"]
    book.close()
    with pytest.raises(FileAccessError):
        SightingBook(tmp_path / "nowhere", "one")
