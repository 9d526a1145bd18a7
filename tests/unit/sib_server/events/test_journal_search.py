"""A search gives what a plain filter over all events gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_protocol.errors import ExitCode
from sib_protocol.events import Priority
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId
from sib_server.events import query as planning
from sib_server.events.incoming import Incoming, IncomingBatch, ServerRecord
from sib_server.events.journal import Journal
from sib_server.events.query import PriorityFilter, Query, QueryError, windows
from sib_server.events.reader import JournalReader
from sib_server.events.search import search
from sib_server.events.stored import Seq, StoredEvent

MINUTE = 60 * 10**9
HOSTS = [
    (HostId(f"00000000-0000-4000-9000-00000000000{n}"), HostName(name))
    for n, name in enumerate(["web-1", "WEB-1", "web_1", "w.b-1"])
]
RULES = ["Read ssh information", "read ssh information", "100%", "_", "", "r" * 2000]
TECHNIQUES = ["T1003", "T1003.008", "T1003.001", "T100", "T1611", "not one"]
TEXTS = ["a%b", "a_b", "A_B", "[x]", "STRASSE", "straße", "\\", '"', "K", "\u212a", "x", "\x00"]


@st.composite
def event_lines(draw: st.DrawFn) -> bytes:

    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(TEXTS)).encode() + draw(st.binary(max_size=4)).replace(
            b"\n", b""
        )
    return msgspec.json.encode(
        {
            "rule": draw(st.sampled_from(RULES)),
            "priority": draw(st.sampled_from([*(p.value for p in Priority), "nonsense"])),
            "tags": draw(st.lists(st.sampled_from(TECHNIQUES), max_size=3)),
            "output": draw(st.sampled_from(TEXTS)) + draw(st.sampled_from(TEXTS)),
        }
    )


queries = st.builds(
    Query,
    since_ns=st.none() | st.integers(-5 * MINUTE, 5 * MINUTE).map(lambda ns: 10**18 + ns),
    until_ns=st.none() | st.integers(-5 * MINUTE, 5 * MINUTE).map(lambda ns: 10**18 + ns),
    host=st.none() | st.sampled_from([*sum(HOSTS, ()), "w%", "nobody"]),
    rule=st.none() | st.sampled_from([*RULES, "%"]),
    priority=st.none() | st.builds(PriorityFilter, st.sampled_from(Priority), st.booleans()),
    technique=st.none() | st.sampled_from(["T1003", "T1003.008", "T1611", "T9999"]),
    text=st.none() | st.sampled_from(TEXTS),
    limit=st.none() | st.integers(1, 5),
    newest_first=st.booleans(),
)


def naive(query: Query, events: list[StoredEvent]) -> list[int]:
    """The plainest reading of the query."""
    found = []
    for event in events:
        tests = [
            query.since_ns is None or query.since_ns <= event.received_ns,
            query.until_ns is None or event.received_ns < query.until_ns,
            query.host is None or query.host in {event.host_id, event.host_name},
            query.rule is None or query.rule == event.summary.rule,
        ]
        if query.technique is not None:
            known = event.summary.techniques
            tests.append(any(one.split(".")[0] == query.technique or one == query.technique
                             for one in known))  # fmt: skip
        if query.priority is not None:
            order = list(Priority)
            if event.summary.priority is None:
                tests.append(False)
            elif query.priority.or_more:
                tests.append(
                    event.summary.priority in order[: order.index(query.priority.priority) + 1]
                )
            else:
                tests.append(event.summary.priority == query.priority.priority)
        if query.text is not None and query.text.isascii():
            # latin-1 keeps every byte apart, and ASCII letters are all that is folded.
            folded = "".join(c.lower() if c.isascii() else c for c in event.line.decode("latin-1"))
            tests.append(query.text.lower() in folded)
        elif query.text is not None:
            line = event.line.decode(errors="replace")
            tests.append(query.text.casefold() in line.casefold())
        if all(tests):
            found.append(event.seq)
    ordered = found[::-1] if query.newest_first else found
    return [int(seq) for seq in ordered[: query.limit]]


@settings(max_examples=60, deadline=None)
@given(
    commits=st.lists(
        st.tuples(
            st.integers(-4 * MINUTE, 4 * MINUTE),
            st.integers(0, 4),
            st.lists(event_lines(), min_size=1, max_size=5),
        ),
        max_size=12,
    ),
    asked=st.lists(queries, min_size=5, max_size=15),
)
def test_search_is_a_filter(
    commits: list[tuple[int, int, list[bytes]]], asked: list[Query]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        now = 0
        journal = Journal.open(path, clock_ns=lambda: now)
        for when, who, lines in commits:
            now = 10**18 + when
            host_id, name = HOSTS[who % 4]
            entry: Incoming
            if who == 4:
                entry = ServerRecord(lines[0], host_id, name)
            else:
                stream = StreamId(f"00000000-0000-4000-8000-00000000000{who}")
                first = journal.next_number(stream) or LineNumber(0)
                entry = IncomingBatch(stream, host_id, name, first, lines)
            journal.append([entry])
        with JournalReader(path) as reader:
            events: list[StoredEvent] = []
            while part := reader.read(events[-1].seq if events else Seq(0), max_bytes=100):
                events.extend(part)
            for query in asked:
                assert [event.seq for event in search(reader, query)] == naive(query, events)
        journal.close()


def test_many_events_in_pages_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "STREAM_CHUNK", 100)
    monkeypatch.setattr(planning, "_MOST_PLANNED_KINDS", 40)
    path = tmp_path / "journal.db"
    journal = Journal.open(path, clock_ns=lambda: 10**18)
    for n, (host_id, name) in enumerate(HOSTS):
        stream = StreamId(f"00000000-0000-4000-8000-00000000000{n}")
        for start in range(0, 1500, 500):
            lines = [b'{"rule":"r%d"}' % ((start + i) % 50) for i in range(500)]
            journal.append([IncomingBatch(stream, host_id, name, LineNumber(start), lines)])
    with JournalReader(path) as reader:
        for newest_first in (True, False):
            everything = sorted(range(1, 6001), reverse=newest_first)
            found = search(reader, Query(newest_first=newest_first))
            assert [event.seq for event in found] == everything
            of_host = list(search(reader, Query(host="web_1", newest_first=newest_first)))
            assert [event.seq for event in of_host] == [
                seq for seq in everything if 3000 < seq <= 4500
            ]
            assert len(list(search(reader, Query(rule="r7", newest_first=newest_first)))) == 120
        # So many kinds that looking at everything is the plan.
        monkeypatch.setattr(planning, "_MOST_PLANNED_KINDS", 0)
        assert len(list(search(reader, Query(rule="r7")))) == 120
    journal.close()


def test_a_search_holds_no_transaction_open(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal.open(path)
    host_id, name = HOSTS[0]
    stream = StreamId("00000000-0000-4000-8000-000000000000")
    lines = [b"x" * 100] * 2000
    journal.append([IncomingBatch(stream, host_id, name, LineNumber(0), lines)])
    with JournalReader(path) as reader, journal.transaction() as connection:
        assert next(search(reader, Query())).seq == 2000
        connection.execute("COMMIT")
        blocked, _frames, _done = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not blocked
        connection.execute("BEGIN")
    journal.close()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"technique": "T10"}, "technique"),
        ({"technique": "x" * 9000}, "technique"),
        ({"text": "x" * 5000}, "text"),
        ({"limit": 0}, "limit"),
    ],
)
def test_queries_that_cannot_be(arguments: dict[str, object], option: str) -> None:
    with pytest.raises(QueryError) as caught:
        Query(**arguments)  # type: ignore[arg-type]
    assert caught.value.option == option
    assert caught.value.exit_code is ExitCode.USAGE
    assert len(str(caught.value)) < 300


def test_priorities_on_the_command_line() -> None:
    assert PriorityFilter.parse("Warning") == PriorityFilter(Priority.WARNING)
    assert PriorityFilter.parse("info+") == PriorityFilter(Priority.INFORMATIONAL, or_more=True)
    with pytest.raises(QueryError, match="'loud'"):
        PriorityFilter.parse("loud")


@given(low=st.integers(1, 10**6), length=st.integers(0, 300_000), newest_first=st.booleans())
def test_windows_cover_everything_once(low: int, length: int, newest_first: bool) -> None:
    cut = windows(low, low + length - 1, newest_first=newest_first)
    assert sum(map(len, cut)) == length
    ordered = cut[::-1] if newest_first else cut
    at = low
    for window in ordered:
        assert window[0] == at
        assert len(window) <= 65_536
        at = window[-1] + 1
