"""What is fuzzed: every parser that reads what a host, a server, a store or a disk says."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cramjam
from cryptography.hazmat.primitives.serialization import Encoding

from sib_agent.client import ServerBusyError, ServerRefusedError
from sib_agent.spool.records import (
    Mark,
    SourcePosition,
    encode_commit,
    fingerprint,
)
from sib_agent.spool.state import SpoolState, encode_slot
from sib_protocol.batches import encode_lines
from sib_protocol.errors import SettingsError
from sib_protocol.events import Priority, sib_event
from sib_protocol.ids import (
    HostId,
    LineNumber,
)
from sib_protocol.keys import load_key, make_csr, new_key, sign_proof
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    GapReason,
    GapReport,
    HealthAnswer,
    Refusal,
    RenewExpired,
    RenewRequest,
    StreamAnswer,
    encode_message,
)
from sib_protocol.tokens import EnrollmentToken, TokenFormatError
from sib_server.pki.authority import Authority
from sib_server.pki.peer import NotAHostCertificateError
from sib_server.pki.requests import CertificateRequestError, read_request
from sib_server.stack.push.rewrite import (
    decompress_gzip,
)
from sib_server.trial.feed import recorded_lines
from tests.fuzz.detection import detection_targets
from tests.fuzz.mutate import Target
from tests.fuzz.parsers import (
    HOST,
    MALFORMED,
    MIB,
    STREAM,
    answer_target,
    bucket,
    feed_address,
    feed_batch,
    feed_batch_of,
    feed_carve,
    feed_counts,
    feed_csr,
    feed_cut,
    feed_ids,
    feed_judge,
    feed_labels,
    feed_loki,
    feed_loki_json,
    feed_loki_raw,
    feed_message,
    feed_peer,
    feed_scan,
    feed_segment,
    feed_settings,
    feed_slot,
    feed_store_answer,
    feed_summary,
    feed_time,
    feed_token,
    feed_write,
    feed_write_raw,
    proof_target,
)


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
        Target("batch", feed_batch, MALFORMED, [encode_lines(lines[:5]), gzip.compress(b"a\nb")]),
        Target("batch of lines", feed_batch_of, (), [b"\n".join(lines[:3]), b"", b"\n\n"]),
        Target("messages", feed_message, MALFORMED, [*messages, answer]),
        Target(
            "event summary",
            feed_summary,
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
            feed_time,
            (),
            [
                b"2026-11-25T08:00:00.123456789Z",
                b"2026-11-25T08:00:00+05:30",
                b"1677-09-21T00:00:00Z",
            ],
        ),
        Target(
            "ids", feed_ids, (), [STREAM.encode(), f"{STREAM}/12".encode(), b"web-1.example", b"a"]
        ),
        Target("token", feed_token, (TokenFormatError,), [token.text().encode()]),
        Target("peer certificate", feed_peer, (NotAHostCertificateError,), [der]),
        Target("certificate request", feed_csr, (CertificateRequestError,), [csr.encode()]),
        Target("private key", lambda data: str(load_key(data).curve.name), MALFORMED, [_pem(key)]),
        proof_target([f"{csr}|{proof}".encode()], certificate),
        answer_target([answer], key, trusted),
        Target("stream labels", feed_labels, MALFORMED, labels),
        Target("Loki push, snappy", feed_loki, MALFORMED, compressed),
        Target("Loki push, protobuf", feed_loki_raw, MALFORMED, push),
        Target("Loki push, JSON", feed_loki_json, MALFORMED, text_push),
        Target(
            "push, gzip",
            lambda data: bucket(len(decompress_gzip(data, MIB))),
            MALFORMED,
            [gzip.compress(text_push[0])],
        ),
        Target(
            "remote write, snappy",
            feed_write,
            MALFORMED,
            [bytes(cramjam.snappy.compress_raw(one)) for one in write],
        ),
        Target("remote write, protobuf", feed_write_raw, MALFORMED, write),
        Target("Falcosidekick's counters", feed_counts, MALFORMED, [page]),
        Target("Loki's refusals", feed_store_answer, (), store_answers),
        Target("spool recovery", feed_segment, (), [segment, commit]),
        Target("spool scanner", feed_scan, (), [segment, commit]),
        Target("spool state", feed_slot, (), [encode_slot(SpoolState(STREAM), 3)]),
        Target("line cutter", feed_cut, (), [b"\n".join(lines[:3]), b"x" * 3000]),
        Target("journal carver", feed_carve, (), carved),
        Target(
            "server's answers",
            feed_judge,
            (*MALFORMED, ServerBusyError, ServerRefusedError),
            [b"\x0030\n" + messages[4], b"\x64\n" + messages[6], b"\x905\n"],
        ),
        Target(
            "settings",
            feed_settings,
            (SettingsError,),
            [
                b"spool: {quota_bytes: 70000}\nevents: {file: /x}\n",
                b"&a [*a]",
                b"a: !!python/x y",
                b"a: 2026-12-31 08:00:00",
            ],
        ),
        Target(
            "address", feed_address, (), [b"::1", b"fe80::1%eth0", b"192.0.2.1", b"::ffff:1.2.3.4"]
        ),
        *detection_targets(),
    ]


def _pem(key: Any) -> bytes:
    from sib_protocol.keys import key_pem  # noqa: PLC0415

    return key_pem(key)
