"""How each parser is fed, and what must hold of its results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cramjam
import msgspec

from sib_agent.client import judge, parse_retry_after
from sib_agent.enrollment import UnusableAnswerError, check_answer
from sib_agent.settings import AgentSettings
from sib_agent.spool.lines import Partial, cut_lines
from sib_agent.spool.records import (
    find_frame,
    take_lines,
)
from sib_agent.spool.segments import recover
from sib_agent.spool.state import decode_slot
from sib_protocol.batches import decode_lines, encode_lines
from sib_protocol.errors import MalformedMessageError
from sib_protocol.events import parse_time_ns, summarize
from sib_protocol.ids import (
    EventId,
    HostName,
    LineNumber,
    StreamId,
    parse_host_id,
    parse_host_name,
    parse_stream_id,
)
from sib_protocol.keys import verify_proof
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    GapReport,
    HealthAnswer,
    HealthReport,
    Refusal,
    RenewExpired,
    RenewRequest,
    StreamAnswer,
    decode_message,
    encode_message,
)
from sib_protocol.settings import parse_settings
from sib_protocol.tokens import EnrollmentToken
from sib_server.events import carve
from sib_server.events.sinks.falcosidekick_counts import parse_counts
from sib_server.events.sinks.http import parse_retry_after as parse_store_retry_after
from sib_server.events.sinks.loki_answers import read_answer
from sib_server.fleet.limits import address_key
from sib_server.pki.peer import parse_peer
from sib_server.pki.requests import read_request
from sib_server.stack.push.labels import format_labels, parse_labels
from sib_server.stack.push.rewrite import (
    rewrite_loki,
    rewrite_loki_json,
    rewrite_remote_write,
)
from sib_server.stack.push.schema import LokiPush, WriteRequest
from tests.fuzz.mutate import Target

STREAM = StreamId("6f9619ff-8b86-4011-b42d-00c04fc964ff")
HOST = HostName("web-1")
RESERVED = frozenset({"syscall", "sib"})
MALFORMED = (MalformedMessageError,)
MIB = 1024 * 1024
MESSAGES: tuple[type[msgspec.Struct], ...] = (
    EnrollRequest,
    RenewRequest,
    RenewExpired,
    CertificateAnswer,
    GapReport,
    StreamAnswer,
    HealthReport,
    HealthAnswer,
    Refusal,
)


def bucket(size: int) -> int:
    return size.bit_length()


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def feed_batch(data: bytes) -> object:
    lines = decode_lines(data, max_bytes=MIB)
    assert sum(map(len, lines)) + len(lines) - 1 <= MIB
    assert not any(b"\n" in line for line in lines)
    return bucket(len(lines))


def feed_batch_of(data: bytes) -> object:
    """The other way round: mutated plain text, well compressed, comes back as it was."""
    lines = data.split(b"\n")
    assert decode_lines(encode_lines(lines)) == lines
    return bucket(len(lines))


def feed_message(data: bytes) -> object:
    wanted = MESSAGES[len(data) % len(MESSAGES)]
    message = decode_message(data, wanted)
    again = decode_message(encode_message(message), wanted, max_bytes=4 * MIB)
    assert again == message
    return wanted.__name__


def feed_summary(data: bytes) -> object:
    summary = summarize(data)
    assert summary.time_ns is None or abs(summary.time_ns) < 2**63
    assert len(summary.rule) + len(summary.source) <= 2 * len(data)
    summary.rule.encode()
    summary.source.encode()
    return (summary.unparsed, summary.priority, bool(summary.techniques), summary.time_ns is None)


def feed_time(data: bytes) -> object:
    found = parse_time_ns(text_of(data))
    assert found is None or abs(found) < 2**63
    return found is None


def feed_ids(data: bytes) -> object:
    text, found = text_of(data), []
    parsers: tuple[Callable[[str], object], ...] = (
        parse_stream_id,
        parse_host_id,
        parse_host_name,
        EventId.parse,
    )
    for parse in parsers:
        try:
            assert str(parse(text)) == text or parse is EventId.parse
            assert text
            assert text.isascii()
            found.append(parse.__name__)
        except MalformedMessageError:
            pass
    return tuple(found)


def feed_token(data: bytes) -> object:
    token = EnrollmentToken.parse(text_of(data))
    assert EnrollmentToken.parse(token.text()) == token
    assert token.secret not in repr(token)
    return len(token.servers)


def feed_peer(data: bytes) -> object:
    peer = parse_peer(data)
    assert peer.der == data
    return len(peer.host_name)


def feed_csr(data: bytes) -> object:
    return len(read_request(text_of(data)).key_digest)


def feed_judge(data: bytes) -> object:
    status, (header, _, body) = 200 + sum(data[:1]) * 2, data.partition(b"\n")
    headers = {"retry-after": header[1:].decode("latin-1")}
    wait = parse_retry_after(headers)
    assert wait is None or 0 <= wait <= 300
    parse_store_retry_after(headers["retry-after"])
    answer = judge(status, headers, body)
    assert 200 <= answer.status < 300 or answer.status == 409
    return answer.decode(StreamAnswer).next > 0


def feed_labels(data: bytes) -> object:
    labels = parse_labels(data)
    assert parse_labels(format_labels(labels)) == labels
    return len(labels)


def feed_loki(data: bytes) -> object:
    out = rewrite_loki(data, HOST, RESERVED, max_bytes=MIB)
    return check_loki(out, len(data))


def feed_loki_raw(data: bytes) -> object:
    body = bytes(cramjam.snappy.compress_raw(data))
    return check_loki(rewrite_loki(body, HOST, RESERVED, max_bytes=MIB), len(data))


def check_loki(out: bytes, _size: int) -> object:
    push = LokiPush()
    push.ParseFromString(bytes(cramjam.snappy.decompress_raw(out)))
    for stream in push.streams:
        labels = parse_labels(stream.labels)
        assert labels["host"] == HOST
        assert labels.get("source") not in RESERVED
        assert not any(name.startswith("__") for name in labels)
    return bucket(len(push.streams))


def feed_loki_json(data: bytes) -> object:
    out = json.loads(rewrite_loki_json(data, HOST, RESERVED, max_bytes=MIB))
    assert all(stream["stream"]["host"] == HOST for stream in out["streams"])
    return bucket(len(out["streams"]))


def feed_write(data: bytes) -> object:
    return check_write(rewrite_remote_write(data, HOST, max_bytes=MIB))


def feed_write_raw(data: bytes) -> object:
    body = bytes(cramjam.snappy.compress_raw(data))
    return check_write(rewrite_remote_write(body, HOST, max_bytes=MIB))


def check_write(out: bytes) -> object:
    request = WriteRequest()
    request.ParseFromString(bytes(cramjam.snappy.decompress_raw(out)))
    for series in request.timeseries:
        values = [label.value for label in series.labels if label.name == b"host"]
        assert values == [HOST.encode()]
    return bucket(len(request.timeseries))


def feed_counts(data: bytes) -> object:
    return bucket(len(parse_counts(text_of(data)).outputs))


def feed_store_answer(data: bytes) -> object:
    answer = read_answer(400 if data[:1] < b"\x80" else 429, text_of(data), 3)
    return repr(answer)[:40]


def feed_segment(data: bytes) -> object:
    found = recover(data, LineNumber(5))
    assert found is None or (found.size <= len(data) and found.mark.next >= 5)
    return None if found is None else (bucket(found.mark.next), found.twice)


def feed_scan(data: bytes) -> object:
    whole = bool(len(data) % 2)
    find_frame(data, 0, whole=whole)
    taken = take_lines(
        data,
        0,
        LineNumber(5),
        LineNumber(100),
        whole=whole,
        max_bytes=4096,
        max_lines=16,
    )
    assert len(taken.lines) <= 16
    assert 0 <= taken.at <= len(data)
    assert sum(map(len, taken.lines)) <= max(4096, len(data))
    # Only one flipped bit in 4 billion passes the checksum: each line is one that was written.
    return len(taken.lines), taken.hole is None


def feed_slot(data: bytes) -> object:
    return decode_slot(data) is None


def feed_cut(data: bytes) -> object:
    cut = cut_lines(Partial(), data, 1000)
    assert all(len(line) <= 1000 and b"\n" not in line for line in cut.lines)
    return bucket(len(cut.lines))


def feed_carve(data: bytes) -> object:
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]

    def fetch(number: int) -> bytes | None:
        return pages[number % len(pages)].ljust(4096, b"\0") if pages else None

    found = 0
    for number, page in enumerate(pages, 1):
        for shape in (carve.EVENTS, carve.STREAMS, carve.CURSORS, carve.META):
            for cell in carve.find_cells(page, number, shape, fetch):
                assert len(cell.values) == shape.columns
                found += 1
    return bucket(found)


def feed_settings(data: bytes) -> object:
    return repr(parse_settings(text_of(data)[:300], AgentSettings, Path("x.yaml")))[:40]


def feed_address(data: bytes) -> object:
    key = address_key(text_of(data))
    assert len(key) <= 64
    return ":" in key


def proof_target(corpus: list[bytes], certificate: Any) -> Target:
    def run(data: bytes) -> object:
        csr, _, proof = text_of(data).partition("|")
        return verify_proof(certificate, csr, proof)

    return Target("renewal proof", run, (), corpus)


def answer_target(corpus: list[bytes], key: Any, trusted: str) -> Target:
    def run(data: bytes) -> object:
        message = decode_message(data, CertificateAnswer)
        return check_answer(message, key, ("https://x",), trusted=trusted, now=1).host_name

    return Target("certificate answer", run, (*MALFORMED, UnusableAnswerError), corpus)
