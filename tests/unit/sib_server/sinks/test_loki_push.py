from __future__ import annotations

import json

import cramjam
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.events import Priority
from sib_server.events.sinks import loki_wire
from sib_server.events.sinks.loki_push import (
    MAX_METADATA_VALUE,
    SHARED_STREAM_BYTES,
    Entry,
    EventEncoder,
    Fix,
    PushRequest,
    TimeLevel,
    plan,
)
from sib_server.stack.push.labels import parse_labels
from tests.fakes.events import HOST, SECOND, STREAM, alert, stored
from tests.fakes.loki import Push

SOURCES = ("syscall", "sib", "k8s_audit")
NOW = 1_795_568_118_991_961_223


def decoded(request: PushRequest) -> list[tuple[str, int, str, dict[str, str]]]:
    push = Push.FromString(bytes(cramjam.snappy.decompress_raw(request.body())))
    return [
        (
            stream.labels,
            entry.time.seconds * SECOND + entry.time.nanos,
            entry.line,
            {pair.name: pair.value for pair in entry.metadata},
        )
        for stream in push.streams
        for entry in stream.entries
    ]


def one(entry: Entry) -> tuple[str, int, str, dict[str, str]]:
    (found,) = decoded(PushRequest(((entry,),)))
    return found


def test_an_alert_becomes_an_entry_with_three_labels_and_the_rest_as_metadata() -> None:
    event = stored(7, time_ns=NOW, received_ns=NOW + 5)
    entry = EventEncoder(SOURCES).encode(event)
    labels, time_ns, line, metadata = one(entry)
    assert labels == '{host="web-1", priority="Warning", source="syscall"}'
    assert time_ns == NOW
    assert line.encode() == event.line
    assert metadata == {
        "event_id": f"{STREAM}/7",
        "host_id": HOST,
        "rule": "A rule",
        "tags": "T1611,process",
        "technique": "T1611",
    }
    assert not entry.adjusted
    assert not entry.truncated


_lines = st.one_of(
    st.binary(max_size=300).filter(lambda line: b"\n" not in line),
    st.builds(
        lambda rule, source, tags, priority, output: json.dumps(
            {
                "rule": rule,
                "source": source,
                "tags": tags,
                "priority": priority,
                "output": output,
                "time": "2026-11-25T00:55:18.991961223Z",
            },
            separators=(",", ":"),
        ).encode(),
        st.text(),
        st.sampled_from([*SOURCES, "made up", "", '"},{']),
        st.lists(st.text(max_size=5), max_size=3),
        st.sampled_from([*(p.value for p in Priority), "none"]),
        st.text(),
    ),
)


@given(st.lists(_lines, min_size=1, max_size=5), st.integers(0, 1 << 62), st.booleans())
def test_whatever_the_lines_the_push_decodes_to_what_went_in(
    lines: list[bytes], received_ns: int, again: bool
) -> None:
    encoder = EventEncoder(SOURCES)
    events = [
        stored(n, line=line, received_ns=received_ns + n, host=f"h{n}")
        for n, line in enumerate(lines)
    ]
    if again:
        [encoder.encode(event) for event in events]
    entries = [encoder.encode(event) for event in events]
    request = PushRequest(tuple((entry,) for entry in entries))
    assert [entry.wire for entry in entries] == [
        EventEncoder(SOURCES).encode(event).wire for event in events
    ]
    for event, (text, time_ns, line, metadata) in zip(events, decoded(request), strict=True):
        labels = parse_labels(text.encode())
        assert set(labels) == {"host", "priority", "source"}
        assert labels["host"] == event.host_name
        assert labels["source"] in {*SOURCES, "unparsed", "other"}
        assert metadata["event_id"] == str(event.event_id)
        assert all(len(value.encode()) <= MAX_METADATA_VALUE for value in metadata.values())
        if event.summary.unparsed:
            assert line == event.line.decode("utf-8", "replace")
            assert ("sib_invalid_utf8" in metadata) == (line.encode() != event.line)
            assert time_ns == event.received_ns
        else:
            assert line.encode() == event.line
            assert time_ns == event.summary.time_ns


@given(st.integers(0, (1 << 63) - 1))
def test_times_keep_every_nanosecond(time_ns: int) -> None:
    stream = loki_wire.stream(b"{}", [loki_wire.entry(time_ns, b"", b"")])
    (entry,) = Push.FromString(stream).streams[0].entries
    assert entry.time.seconds * SECOND + entry.time.nanos == time_ns


def test_long_lines_lengths_and_metadata_are_framed_right() -> None:
    event = stored(1, line=b"x" * 3_000_000)
    _, _, line, _ = one(EventEncoder(SOURCES).encode(event))
    assert len(line) == 3_000_000
    named = stored(2, time_ns=NOW, rule="é" * 2000)
    _, _, _, metadata = one(EventEncoder(SOURCES).encode(named))
    assert metadata["rule"] == "é" * 512


def test_a_fix_is_told_in_the_metadata() -> None:
    encoder = EventEncoder(SOURCES)
    event = stored(1, time_ns=NOW, received_ns=NOW + SECOND)
    received = encoder.encode(event, Fix(TimeLevel.RECEIVED))
    assert received.adjusted
    assert one(received)[1] == NOW + SECOND
    assert one(received)[3]["sib_event_time"] == str(NOW)
    later = encoder.encode(event, Fix(TimeLevel.NOW, NOW + 9, 20))
    _, time_ns, line, metadata = one(later)
    assert (time_ns, line.encode()) == (NOW + 9, event.line[:20])
    assert later.truncated
    assert metadata["sib_truncated"] == str(len(event.line))


def test_times_before_1970_and_unknown_sources_do_not_reach_loki() -> None:
    line = alert(1, NOW, source="made up").replace(b"2026-", b"1906-", 1)
    event = stored(1, line=line, received_ns=NOW)
    entry = EventEncoder(SOURCES).encode(event)
    labels, time_ns, _, metadata = one(entry)
    assert time_ns == NOW
    assert entry.adjusted
    assert 'source="other"' in labels
    assert metadata["event_source"] == "made up"


def test_caches_are_bounded_and_keep_nothing_wrong() -> None:
    encoder = EventEncoder(SOURCES)
    for number in range(3):
        endless = b'{"rule":"r","tags":["t%d"],"x":{"tags":["' % number + b"y" * 4096 + b'"]}}'
        assert one(encoder.encode(stored(number, line=endless)))[3]["tags"] == f"t{number}"
    for number in range(9000):
        entry = encoder.encode(stored(number, time_ns=NOW, host=f"h{number}", rule=f"r{number}"))
        if number % 1000 == 0:
            assert f'host="h{number}"' in one(entry)[0]
            assert one(entry)[3]["rule"] == f"r{number}"


def test_characters_are_not_cut_in_two() -> None:
    entry = EventEncoder(SOURCES).encode(stored(1, line="é".encode() * 10), Fix(line_limit=5))
    assert one(entry)[2] == "éé"


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 100), st.integers(1, 90_000)), max_size=12
    ),
    st.sets(st.integers(0, 4)),
)
def test_a_plan_holds_every_entry_once_and_shares_only_trusted_streams(
    shape: list[tuple[int, int, int]], trusted: set[int]
) -> None:
    encoder = EventEncoder(SOURCES)
    entries = [
        encoder.encode(
            stored(n, line=b"x" * size, received_ns=NOW + at, host=f"h{host}"),
        )
        for n, (host, at, size) in enumerate(shape)
    ]
    good = {f'host="h{host}"' for host in trusted}
    limit = 200_000
    lanes = plan(entries, lambda stream, _: stream.decode()[1:10] in good, limit)
    flat = [entry for lane in lanes for request in lane for entry in request.entries]
    assert sorted(e.event.seq for e in flat) == [e.event.seq for e in entries]
    seen: set[bytes] = set()
    for lane in lanes:
        in_lane = {stream[0].stream for request in lane for stream in request.streams}
        assert not in_lane & seen, "a stream in two lanes may get out of order"
        seen |= in_lane
        by_stream: dict[bytes, list[int]] = {}
        for request in lane:
            size = sum(len(entry.wire) for entry in request.entries)
            assert size <= limit or len(request.entries) == 1
            for stream in request.streams:
                by_stream.setdefault(stream[0].stream, []).extend(e.time_ns for e in stream)
                if len(request.streams) > 1:
                    assert stream[0].stream.decode()[1:10] in good
                    assert sum(len(entry.wire) for entry in stream) <= SHARED_STREAM_BYTES
        assert all(times == sorted(times) for times in by_stream.values())
