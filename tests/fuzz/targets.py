"""What is fuzzed: every parser that reads what a host, a server, a store or a disk says."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cramjam
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from sib_agent.client import ServerBusyError, ServerRefusedError, judge, parse_retry_after
from sib_agent.enrollment import UnusableAnswerError, check_answer
from sib_agent.settings import AgentSettings
from sib_agent.spool.lines import Partial, cut_lines
from sib_agent.spool.records import (
    Mark,
    SourcePosition,
    encode_commit,
    find_frame,
    fingerprint,
    take_lines,
)
from sib_agent.spool.segments import recover
from sib_agent.spool.state import SpoolState, decode_slot, encode_slot
from sib_protocol.batches import decode_lines, encode_lines
from sib_protocol.errors import MalformedMessageError, SettingsError
from sib_protocol.events import Priority, parse_time_ns, sib_event, summarize
from sib_protocol.ids import (
    EventId,
    HostId,
    HostName,
    LineNumber,
    StreamId,
    parse_host_id,
    parse_host_name,
    parse_stream_id,
)
from sib_protocol.keys import load_key, make_csr, new_key, sign_proof, verify_proof
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    GapReason,
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
from sib_protocol.tokens import EnrollmentToken, TokenFormatError
from sib_server.events import carve
from sib_server.events.sinks.falcosidekick_counts import parse_counts
from sib_server.events.sinks.http import parse_retry_after as parse_store_retry_after
from sib_server.events.sinks.loki_answers import read_answer
from sib_server.fleet.limits import address_key
from sib_server.pki.authority import Authority
from sib_server.pki.peer import NotAHostCertificateError, parse_peer
from sib_server.pki.requests import CertificateRequestError, read_request
from sib_server.stack.push.labels import format_labels, parse_labels
from sib_server.stack.push.rewrite import (
    decompress_gzip,
    rewrite_loki,
    rewrite_loki_json,
    rewrite_remote_write,
)
from sib_server.stack.push.schema import LokiPush, WriteRequest
from sib_server.trial.feed import recorded_lines
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


def _bucket(size: int) -> int:
    return size.bit_length()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _batch(data: bytes) -> object:
    lines = decode_lines(data, max_bytes=MIB)
    assert sum(map(len, lines)) + len(lines) - 1 <= MIB
    assert not any(b"\n" in line for line in lines)
    return _bucket(len(lines))


def _batch_of(data: bytes) -> object:
    """The other way round: mutated plain text, well compressed, comes back as it was."""
    lines = data.split(b"\n")
    assert decode_lines(encode_lines(lines)) == lines
    return _bucket(len(lines))


def _message(data: bytes) -> object:
    wanted = MESSAGES[len(data) % len(MESSAGES)]
    message = decode_message(data, wanted)
    again = decode_message(encode_message(message), wanted, max_bytes=4 * MIB)
    assert again == message
    return wanted.__name__


def _summary(data: bytes) -> object:
    summary = summarize(data)
    assert summary.time_ns is None or abs(summary.time_ns) < 2**63
    assert len(summary.rule) + len(summary.source) <= 2 * len(data)
    summary.rule.encode()
    summary.source.encode()
    return (summary.unparsed, summary.priority, bool(summary.techniques), summary.time_ns is None)


def _time(data: bytes) -> object:
    found = parse_time_ns(_text(data))
    assert found is None or abs(found) < 2**63
    return found is None


def _ids(data: bytes) -> object:
    text, found = _text(data), []
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


def _token(data: bytes) -> object:
    token = EnrollmentToken.parse(_text(data))
    assert EnrollmentToken.parse(token.text()) == token
    assert token.secret not in repr(token)
    return len(token.servers)


def _peer(data: bytes) -> object:
    peer = parse_peer(data)
    assert peer.der == data
    return len(peer.host_name)


def _csr(data: bytes) -> object:
    return len(read_request(_text(data)).key_digest)


def _judge(data: bytes) -> object:
    status, (header, _, body) = 200 + sum(data[:1]) * 2, data.partition(b"\n")
    headers = {"retry-after": header[1:].decode("latin-1")}
    wait = parse_retry_after(headers)
    assert wait is None or 0 <= wait <= 300
    parse_store_retry_after(headers["retry-after"])
    answer = judge(status, headers, body)
    assert 200 <= answer.status < 300 or answer.status == 409
    return answer.decode(StreamAnswer).next > 0


def _labels(data: bytes) -> object:
    labels = parse_labels(data)
    assert parse_labels(format_labels(labels)) == labels
    return len(labels)


def _loki(data: bytes) -> object:
    out = rewrite_loki(data, HOST, RESERVED, max_bytes=MIB)
    return _check_loki(out, len(data))


def _loki_raw(data: bytes) -> object:
    body = bytes(cramjam.snappy.compress_raw(data))
    return _check_loki(rewrite_loki(body, HOST, RESERVED, max_bytes=MIB), len(data))


def _check_loki(out: bytes, _size: int) -> object:
    push = LokiPush()
    push.ParseFromString(bytes(cramjam.snappy.decompress_raw(out)))
    for stream in push.streams:
        labels = parse_labels(stream.labels)
        assert labels["host"] == HOST
        assert labels.get("source") not in RESERVED
        assert not any(name.startswith("__") for name in labels)
    return _bucket(len(push.streams))


def _loki_json(data: bytes) -> object:
    out = json.loads(rewrite_loki_json(data, HOST, RESERVED, max_bytes=MIB))
    assert all(stream["stream"]["host"] == HOST for stream in out["streams"])
    return _bucket(len(out["streams"]))


def _write(data: bytes) -> object:
    return _check_write(rewrite_remote_write(data, HOST, max_bytes=MIB))


def _write_raw(data: bytes) -> object:
    body = bytes(cramjam.snappy.compress_raw(data))
    return _check_write(rewrite_remote_write(body, HOST, max_bytes=MIB))


def _check_write(out: bytes) -> object:
    request = WriteRequest()
    request.ParseFromString(bytes(cramjam.snappy.decompress_raw(out)))
    for series in request.timeseries:
        values = [label.value for label in series.labels if label.name == b"host"]
        assert values == [HOST.encode()]
    return _bucket(len(request.timeseries))


def _counts(data: bytes) -> object:
    return _bucket(len(parse_counts(_text(data)).outputs))


def _store_answer(data: bytes) -> object:
    answer = read_answer(400 if data[:1] < b"\x80" else 429, _text(data), 3)
    return repr(answer)[:40]


def _segment(data: bytes) -> object:
    found = recover(data, LineNumber(5))
    assert found is None or (found.size <= len(data) and found.mark.next >= 5)
    return None if found is None else (_bucket(found.mark.next), found.twice)


def _scan(data: bytes) -> object:
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


def _slot(data: bytes) -> object:
    return decode_slot(data) is None


def _cut(data: bytes) -> object:
    cut = cut_lines(Partial(), data, 1000)
    assert all(len(line) <= 1000 and b"\n" not in line for line in cut.lines)
    return _bucket(len(cut.lines))


def _carve(data: bytes) -> object:
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]

    def fetch(number: int) -> bytes | None:
        return pages[number % len(pages)].ljust(4096, b"\0") if pages else None

    found = 0
    for number, page in enumerate(pages, 1):
        for shape in (carve.EVENTS, carve.STREAMS, carve.CURSORS, carve.META):
            for cell in carve.find_cells(page, number, shape, fetch):
                assert len(cell.values) == shape.columns
                found += 1
    return _bucket(found)


def _settings(data: bytes) -> object:
    return repr(parse_settings(_text(data)[:300], AgentSettings, Path("x.yaml")))[:40]


def _address(data: bytes) -> object:
    key = address_key(_text(data))
    assert len(key) <= 64
    return ":" in key


def _proof_target(corpus: list[bytes], certificate: Any) -> Target:
    def run(data: bytes) -> object:
        csr, _, proof = _text(data).partition("|")
        return verify_proof(certificate, csr, proof)

    return Target("renewal proof", run, (), corpus)


def _answer_target(corpus: list[bytes], key: Any, trusted: str) -> Target:
    def run(data: bytes) -> object:
        message = decode_message(data, CertificateAnswer)
        return check_answer(message, key, ("https://x",), trusted=trusted, now=1).host_name

    return Target("certificate answer", run, (*MALFORMED, UnusableAnswerError), corpus)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, out = len(payload), bytes([number << 3 | 2])
    while size >= 128:
        out += bytes([size & 127 | 128])
        size >>= 7
    return out + bytes([size]) + payload


@contextmanager
def _sqlite_pages() -> Iterator[list[bytes]]:
    """Pages of a real journal."""
    from sib_server.events.incoming import IncomingBatch  # noqa: PLC0415
    from sib_server.events.journal import Journal  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        journal = Journal.open(path)
        lines = [*recorded_lines()[:60], b"x" * 9000]
        journal.append([IncomingBatch(STREAM, HostId(STREAM), HOST, LineNumber(0), lines)])
        journal.close()
        data = path.read_bytes()
        yield [data[at : at + 8192] for at in range(0, len(data), 8192)][:24]


def make_targets() -> list[Target]:
    """All targets, each with real inputs to begin with."""
    key = new_key()
    csr = make_csr(key, "web-1")
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder), "fuzz")
        certificate = authority.issue_host_certificate(
            read_request(csr), HostId(STREAM), HOST, now=datetime.now(timezone.utc)
        )
        trusted = authority.certificate_pem
    pem = certificate.public_bytes(Encoding.PEM).decode()
    der = certificate.public_bytes(Encoding.DER)
    proof = sign_proof(key, csr)
    lines = recorded_lines()[:40]
    spool = {
        "stream": STREAM,
        "next": 9,
        "acknowledged": 3,
        "bytes": 1,
        "quota": 2,
        "oldest_seconds": 0.5,
        "lost": 0,
    }
    report = {
        "version": "1",
        "uptime_seconds": 1.0,
        "clock_ns": 1,
        "certificate_not_after": 1,
        "spool": spool,
        "facts": {"a": 1, "b": None, "c": "x"},
    }
    messages = [
        encode_message(EnrollRequest("0" * 16, "A" * 43, "web-1", csr)),
        encode_message(RenewRequest(csr)),
        encode_message(RenewExpired(pem, csr, proof)),
        encode_message(GapReport(1, 2, GapReason.QUOTA)),
        encode_message(StreamAnswer(5)),
        encode_message(HealthAnswer(30.0, 1)),
        encode_message(Refusal("word", "a sentence", None)),
        json.dumps(report).encode(),
    ]
    answer = encode_message(CertificateAnswer(STREAM, HOST, pem, trusted))
    mark = Mark(
        STREAM, LineNumber(5), LineNumber(8), 1.5, SourcePosition(1, 2, 3, fingerprint(b"x"))
    )
    empty = Mark(STREAM, LineNumber(8), LineNumber(8), 2.5, None)
    commit = encode_commit([b"one", b"two" * 30, b""], mark)
    segment = commit + encode_commit((), empty)
    labels = [b'{job="x", host="y"}', b"{}", b'{a="\\u00e9\\n\\"", source="syscall"}']
    entry = _field(2, _field(1, b"\x08\x01") + _field(2, b"line"))
    push = [_field(1, _field(1, one) + entry) for one in labels]
    series = _field(1, _field(1, b"__name__") + _field(2, b"up")) + _field(
        1, _field(1, b"host") + _field(2, b"evil")
    )
    write = [_field(1, series + _field(2, b"\x09" + b"\0" * 8 + b"\x10\x01"))]
    page = (
        b"# HELP x y\nprocess_start_time_seconds 1.7e+09\n"
        b'falcosecurity_falcosidekick_outputs_total{destination="slack",status="ok"} 5\n'
        b'falcosecurity_falcosidekick_outputs_total{destination="mqtt",status="a \\"b\\""} 1\n'
    )
    store_answers = [
        b"entry with timestamp 2026-01-01 00:00:00 +0000 UTC ignored, reason: 'entry too far behind"
        b", entry timestamp is: 2026-01-01T00:00:00Z, oldest acceptable timestamp is: 2026-01-02',"
        b"\ntotal ignored: 1 out of 3",
        b"max entry size '262144' bytes exceeded for stream '{host=\"x\"}'",
        b"Ingestion rate limit exceeded for user fake (limit: 4194304 bytes/sec)",
    ]
    token = EnrollmentToken(("https://a:8443", "https://[::1]:1"), "0" * 64, "1" * 16, "A" * 43)
    compressed = [bytes(cramjam.snappy.compress_raw(one)) for one in push]
    random.Random(1).shuffle(lines)
    with _sqlite_pages() as pages:
        carved = pages
    text_push = [
        b'{"streams":[{"stream":{"host":"y","source":"sib"},"values":[["1","x",{"a":"b"}]]}]}'
    ]
    return [
        Target("batch", _batch, MALFORMED, [encode_lines(lines[:5]), gzip.compress(b"a\nb")]),
        Target("batch of lines", _batch_of, (), [b"\n".join(lines[:3]), b"", b"\n\n"]),
        Target("messages", _message, MALFORMED, [*messages, answer]),
        Target(
            "event summary",
            _summary,
            (),
            [
                *lines[:20],
                sib_event(
                    rule="SIB x",
                    priority=Priority.ERROR,
                    time_ns=1,
                    output="x",
                    fields={"sib.a": 1},
                ),
                b'{"rule":1}',
                b"[]",
            ],
        ),
        Target(
            "event time",
            _time,
            (),
            [
                b"2026-11-25T08:00:00.123456789Z",
                b"2026-11-25T08:00:00+05:30",
                b"1677-09-21T00:00:00Z",
            ],
        ),
        Target("ids", _ids, (), [STREAM.encode(), f"{STREAM}/12".encode(), b"web-1.example", b"a"]),
        Target("token", _token, (TokenFormatError,), [token.text().encode()]),
        Target("peer certificate", _peer, (NotAHostCertificateError,), [der]),
        Target("certificate request", _csr, (CertificateRequestError,), [csr.encode()]),
        Target("private key", lambda data: str(load_key(data).curve.name), MALFORMED, [_pem(key)]),
        _proof_target([f"{csr}|{proof}".encode()], certificate),
        _answer_target([answer], key, trusted),
        Target("stream labels", _labels, MALFORMED, labels),
        Target("Loki push, snappy", _loki, MALFORMED, compressed),
        Target("Loki push, protobuf", _loki_raw, MALFORMED, push),
        Target("Loki push, JSON", _loki_json, MALFORMED, text_push),
        Target(
            "push, gzip",
            lambda data: _bucket(len(decompress_gzip(data, MIB))),
            MALFORMED,
            [gzip.compress(text_push[0])],
        ),
        Target(
            "remote write, snappy",
            _write,
            MALFORMED,
            [bytes(cramjam.snappy.compress_raw(one)) for one in write],
        ),
        Target("remote write, protobuf", _write_raw, MALFORMED, write),
        Target("Falcosidekick's counters", _counts, MALFORMED, [page]),
        Target("Loki's refusals", _store_answer, (), store_answers),
        Target("spool recovery", _segment, (), [segment, commit]),
        Target("spool scanner", _scan, (), [segment, commit]),
        Target("spool state", _slot, (), [encode_slot(SpoolState(STREAM), 3)]),
        Target("line cutter", _cut, (), [b"\n".join(lines[:3]), b"x" * 3000]),
        Target("journal carver", _carve, (), carved),
        Target(
            "server's answers",
            _judge,
            (*MALFORMED, ServerBusyError, ServerRefusedError),
            [b"\x0030\n" + messages[4], b"\x64\n" + messages[6], b"\x905\n"],
        ),
        Target(
            "settings",
            _settings,
            (SettingsError,),
            [
                b"spool: {quota_bytes: 70000}\nevents: {file: /x}\n",
                b"&a [*a]",
                b"a: !!python/x y",
                b"a: 2026-12-31 08:00:00",
            ],
        ),
        Target("address", _address, (), [b"::1", b"fe80::1%eth0", b"192.0.2.1", b"::ffff:1.2.3.4"]),
    ]


def _pem(key: Any) -> bytes:
    from sib_protocol.keys import key_pem  # noqa: PLC0415

    return key_pem(key)
