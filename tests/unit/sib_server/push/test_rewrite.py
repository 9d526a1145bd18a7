from __future__ import annotations

import gzip
import json
from contextlib import suppress
from typing import Any

import cramjam
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import MalformedMessageError, TooLargeError
from sib_protocol.ids import HostName
from sib_server.stack.push.labels import format_labels, parse_labels
from sib_server.stack.push.rewrite import (
    decompress_gzip,
    decompress_snappy,
    rewrite_loki,
    rewrite_loki_json,
    rewrite_remote_write,
)
from tests.fakes.loki import Push

HOST = HostName("web-1")
RESERVED = frozenset({"syscall", "sib"})
MAX = 1 << 20


def _write_request() -> Any:
    """Prometheus' own message, whole, so that what SIB does not declare is seen to survive."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="w.proto", package="w", syntax="proto3")
    shape: dict[str, list[tuple[str, int, int, str | None]]] = {
        "Label": [("name", 1, field.TYPE_STRING, None), ("value", 2, field.TYPE_STRING, None)],
        "Sample": [
            ("value", 1, field.TYPE_DOUBLE, None),
            ("timestamp", 2, field.TYPE_INT64, None),
        ],
        "Metadata": [("type", 1, field.TYPE_INT32, None), ("family", 2, field.TYPE_STRING, None)],
        "Series": [
            ("labels", 1, field.TYPE_MESSAGE, "Label"),
            ("samples", 2, field.TYPE_MESSAGE, "Sample"),
        ],
        "Write": [
            ("timeseries", 1, field.TYPE_MESSAGE, "Series"),
            ("metadata", 3, field.TYPE_MESSAGE, "Metadata"),
        ],
    }
    for name, fields in shape.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, of in fields:
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                type_name=f".w.{of}" if of else None,
                label=field.LABEL_REPEATED if of else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles(["w.proto"], pool)["w.Write"]


Write = _write_request()
_words = st.text("abcxyz_", min_size=1, max_size=6)
_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_labels = st.dictionaries(
    _words | st.sampled_from(["host", "source", "__shard__"]),
    _values | st.sampled_from(["syscall", "sib", "web-1", "db-1"]),
    max_size=5,
)
_entries = st.lists(st.tuples(st.integers(0, 1 << 40), _values), max_size=3)


def snappy(raw: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(raw))


def loki_push(streams: list[tuple[dict[str, str], list[tuple[int, str]]]]) -> Any:
    push = Push()
    for labels, entries in streams:
        stream = push.streams.add(labels=format_labels(labels).decode())
        for at, line in entries:
            entry = stream.entries.add(line=line)
            entry.time.seconds = at
            entry.metadata.add(name="k", value=line)
    return push


def right(labels: dict[str, str]) -> dict[str, str]:
    wanted = {name: value for name, value in labels.items() if not name.startswith("__")}
    if wanted.get("source") in RESERVED:
        wanted["source"] = "pushed"
    return {**wanted, "host": "web-1"}


@given(st.lists(st.tuples(_labels, _entries), max_size=4))
def test_loki_streams_get_the_certificate_s_host_and_keep_all_else(
    streams: list[tuple[dict[str, str], list[tuple[int, str]]]],
) -> None:
    push = loki_push(streams)
    body = rewrite_loki(snappy(push.SerializeToString()), HOST, RESERVED, max_bytes=MAX)
    after = Push.FromString(bytes(cramjam.snappy.decompress_raw(body)))
    assert [parse_labels(stream.labels.encode()) for stream in after.streams] == [
        right(labels) for labels, _ in streams
    ]
    for before_stream, after_stream in zip(push.streams, after.streams, strict=True):
        assert list(before_stream.entries) == list(after_stream.entries)


@given(st.lists(st.tuples(_labels, _entries), max_size=4))
def test_json_pushes_are_set_right_too(
    streams: list[tuple[dict[str, str], list[tuple[int, str]]]],
) -> None:
    values = [[[str(at), line, {"k": "v"}] for at, line in entries] for _, entries in streams]
    text = json.dumps(
        {
            "streams": [
                {"stream": labels, "values": some}
                for (labels, _), some in zip(streams, values, strict=True)
            ]
        }
    ).encode()
    after = json.loads(rewrite_loki_json(text, HOST, RESERVED, max_bytes=MAX))
    assert after == {
        "streams": [
            {"stream": right(labels), "values": some}
            for (labels, _), some in zip(streams, values, strict=True)
        ]
    }


@given(st.lists(st.tuples(_labels, st.floats(allow_nan=False)), max_size=4))
def test_series_get_the_certificate_s_host_and_sorted_labels(
    series: list[tuple[dict[str, str], float]],
) -> None:
    request = Write()
    request.metadata.add(type=1, family="m")
    for labels, value in series:
        one = request.timeseries.add()
        one.samples.add(value=value, timestamp=5)
        for name, text in labels.items():
            one.labels.add(name=name, value=text)
    body = rewrite_remote_write(snappy(request.SerializeToString()), HOST, max_bytes=MAX)
    after = Write.FromString(bytes(cramjam.snappy.decompress_raw(body)))
    assert list(after.metadata) == list(request.metadata)
    for (labels, value), one in zip(series, after.timeseries, strict=True):
        pairs = [(label.name, label.value) for label in one.labels]
        assert pairs == sorted({**labels, "host": "web-1"}.items(), key=lambda p: p[0].encode())
        assert [(s.value, s.timestamp) for s in one.samples] == [(value, 5)]


def test_fields_that_nobody_declared_survive() -> None:
    push = loki_push([({"a": "b"}, [(1, "x")])])
    unknown = b"\xba\x3e\x03new"
    body = rewrite_loki(snappy(push.SerializeToString() + unknown), HOST, (), max_bytes=MAX)
    assert unknown in bytes(cramjam.snappy.decompress_raw(body))


def test_a_label_given_twice_is_judged_as_loki_will_read_it() -> None:
    # In a protocol buffer the last of two wins.
    stream = b'\x0a\x0c{host="db-1"'[:2] + b'{host="db1"}' + b'\x0a\x0c{host="db2"}'
    push = b"\x0a" + bytes([len(stream)]) + stream
    body = rewrite_loki(snappy(push), HOST, (), max_bytes=MAX)
    after = Push.FromString(bytes(cramjam.snappy.decompress_raw(body)))
    assert [s.labels for s in after.streams] == ['{host="web-1"}']
    assert b"db" not in bytes(cramjam.snappy.decompress_raw(body))


def test_bombs_are_refused_before_they_unfold() -> None:
    bomb = b"\xff\xff\xff\xff\x0f" + b"\x00" * 10
    with pytest.raises(TooLargeError):
        decompress_snappy(bomb, MAX)
    with pytest.raises(TooLargeError):
        decompress_gzip(gzip.compress(b"0" * (MAX + 1)), MAX)
    with pytest.raises(TooLargeError):
        rewrite_loki_json(b" " * (MAX + 1), HOST, (), max_bytes=MAX)
    assert decompress_gzip(gzip.compress(b"fine"), MAX) == b"fine"


def test_counts_are_bounded() -> None:
    streams = loki_push([({"a": "b"}, [])] * 5001)
    with pytest.raises(MalformedMessageError):
        rewrite_loki(snappy(streams.SerializeToString()), HOST, (), max_bytes=MAX)
    text = json.dumps({"streams": [{"stream": {}, "values": []}] * 5001}).encode()
    with pytest.raises(MalformedMessageError):
        rewrite_loki_json(text, HOST, (), max_bytes=MAX)
    many = Write()
    for _ in range(50_001):
        many.timeseries.add()
    with pytest.raises(MalformedMessageError):
        rewrite_remote_write(snappy(many.SerializeToString()), HOST, max_bytes=MAX)


@pytest.mark.parametrize(
    "labels",
    [
        [("a", "1"), ("a", "2")],
        [("host", "web-1"), ("host", "db-1")],
        [("a", "x" * 5000)],
        [(f"l{n}", "") for n in range(65)],
    ],
)
def test_series_with_unfit_labels_are_refused(labels: list[tuple[str, str]]) -> None:
    request = Write()
    one = request.timeseries.add()
    for name, value in labels:
        one.labels.add(name=name, value=value)
    with pytest.raises(MalformedMessageError):
        rewrite_remote_write(snappy(request.SerializeToString()), HOST, max_bytes=MAX)


@given(st.binary(max_size=60))
def test_no_body_breaks_the_rewriting(raw: bytes) -> None:
    for body in (raw, snappy(raw)):
        for rewrite in (
            lambda b: rewrite_loki(b, HOST, RESERVED, max_bytes=MAX),
            lambda b: rewrite_loki_json(b, HOST, RESERVED, max_bytes=MAX),
            lambda b: rewrite_remote_write(b, HOST, max_bytes=MAX),
            lambda b: decompress_gzip(b, MAX),
        ):
            with suppress(MalformedMessageError):
                rewrite(body)


@pytest.mark.parametrize(
    "body", [gzip.compress(b"x")[:-2], gzip.compress(b"x") + b"y", b"\x05abc", b"\x05\x00a"]
)
def test_bodies_that_end_early_or_late_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decompress_gzip(body, MAX)
    with pytest.raises(MalformedMessageError):
        decompress_snappy(body, MAX)
