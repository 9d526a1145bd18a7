"""Hostile bodies and messages against a real server process over real TLS."""

from __future__ import annotations

import gzip
import json
import ssl
import time
import zlib
from contextlib import suppress

import pytest

from sib_protocol.batches import encode_lines
from sib_protocol.ids import new_stream_id
from sib_protocol.limits import MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_MESSAGE_BYTES
from tests.support.wire import (
    LOKI,
    STREAM,
    WRITE,
    Attacker,
    fresh,
    resident_bytes,
)

pytestmark = pytest.mark.timeout(180)

JSON = {"Content-Type": "application/json"}


# --- bodies ----------------------------------------------------------------------------------


def _bomb(size: int) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=31)
    step = b"\0" * 2**20
    parts = [compressor.compress(step) for _ in range(size // len(step))]
    return b"".join(parts) + compressor.flush()


def test_bodies_that_are_too_large_are_not_read(attacker: Attacker) -> None:
    host = fresh(attacker)
    assert attacker.server.process is not None
    pid = attacker.server.process.pid
    with attacker.stream_of(host, b"kept") as stream:
        path = STREAM.format(stream, 1)
        wire = attacker.wire(host)
        wire.send(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode()
        )
        announced = wire.answer()
        assert announced is not None
        assert (announced.status, announced.error) == (413, "too_large")
        assert wire.hung_up(5)

        before = resident_bytes(pid)
        wire = attacker.wire(host)
        wire.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"%x\r\n%s\r\n" % (2**20, b"x" * 2**20)
        with suppress(ConnectionError, ssl.SSLError):
            for _ in range(64):
                wire.send(chunk)
        unannounced = wire.answer()
        assert unannounced is None or unannounced.status == 413
        grown = resident_bytes(pid) - before
        assert grown < 100 * 2**20, f"{grown} bytes for a body that is too large"

        wire = attacker.wire(host)
        message = b"[" * (MAX_MESSAGE_BYTES + 1)
        assert wire.ask("POST", "/v1/health", message).status == 413
        stranger = attacker.wire()
        assert stranger.ask("POST", "/v1/enroll", message).status == 413


def test_batches_that_are_not_what_they_should_be_cost_little(attacker: Attacker) -> None:
    host = fresh(attacker)
    good, bomb = encode_lines([b"one", b"two"]), _bomb(1024 * 2**20)
    assert attacker.server.process is not None
    pid = attacker.server.process.pid
    with attacker.stream_of(host, b"kept") as stream:
        wire = attacker.wire(host)
        path = STREAM.format(stream, 1)

        def send(body: bytes) -> tuple[int, str]:
            answer = wire.ask("POST", path, body)
            return answer.status, answer.error

        before, start = resident_bytes(pid), time.monotonic()
        assert send(bomb) == (413, "malformed")
        took, grown = time.monotonic() - start, resident_bytes(pid) - before
        assert grown < 64 * 2**20, f"{grown} bytes for a bomb"
        print(f"gzip bomb of 1 GiB: {took:.2f} s, {grown / 2**20:.1f} MiB more")
        assert send(gzip.compress(b"x" * (MAX_BATCH_BYTES + 1))) == (413, "malformed")
        for broken in (
            good[:-1],
            good[: len(good) // 2],
            good[:11],
            good + b"x",
            good + good,
            b"",
            b"\x1f\x8b",
            b"plain lines\n",
            zlib.compress(b"not gzip"),
            gzip.compress(b"\n" * MAX_BATCH_LINES),
        ):
            assert send(broken) == (400, "malformed"), broken[:20]
        for first in ("", "x", "-1", "1.5", "%C2%B2", "9" * 19, "9" * 5000, "0x1", "1_0", "+1"):
            answer = wire.ask("POST", f"/v1/streams/{stream}/events?first={first}", good)
            assert answer.status == 400, first
        for odd in ("x", stream.upper(), stream + "%0a", f"{{{stream}}}", "urn:uuid:" + stream):
            assert wire.ask("POST", STREAM.format(odd, 0), good).status == 400, odd
            assert wire.ask("GET", f"/v1/streams/{odd}").status == 400, odd


def test_messages_of_every_odd_form_are_refused_and_nothing_fails(attacker: Attacker) -> None:
    host = fresh(attacker)
    spool = {
        "stream": "x",
        "next": 2**70,
        "acknowledged": -(2**70),
        "bytes": 2**64,
        "quota": -1,
        "oldest_seconds": 1e308,
        "lost": 2**63,
    }
    report = {
        "version": "\u0000\ud800" * 3,
        "uptime_seconds": -1e308,
        "clock_ns": 2**200,
        "certificate_not_after": -(2**200),
        "spool": spool,
        "facts": {"\u0000": "\u0000", "x" * 1000: 2**100},
    }
    near = {
        **report,
        "version": "\u0000 \u202e",
        "clock_ns": 2**63,
        "certificate_not_after": 2**63 - 1,
        "spool": {**spool, "next": 2**64 - 1, "acknowledged": -(2**63)},
        "facts": {"\u0000": "\u0000", "x" * 1000: 1e300},
    }
    bodies = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"csr":' * 5_000,
        b'{"csr": 5}',
        b'{"csr": "-----BEGIN CERTIFICATE REQUEST-----\\nAAAA\\n-----END"}',
        json.dumps({"csr": "\ud800"}).encode(),
        json.dumps({"csr": "x" * 200_000}).encode(),
        json.dumps({"certificate": "\ud800", "csr": "\ud800", "proof": "\ud800"}).encode(),
        json.dumps({"certificate": host.certificate, "csr": "\u0000", "proof": "é"}).encode(),
        json.dumps(
            {"token_id": "\ud800", "secret": "\ud800", "host_name": "\ud800", "csr": "\ud800"}
        ).encode(),
        json.dumps(
            {"token_id": "\u0000", "secret": "\u0000", "host_name": "\u0000", "csr": "\u0000"}
        ).encode(),
        json.dumps({"first": -1, "last": 5, "reason": "quota"}).encode(),
        json.dumps({"first": 6, "last": 5, "reason": "quota"}).encode(),
        json.dumps({"first": 0, "last": 2**63, "reason": "quota"}).encode(),
        json.dumps({"first": 0, "last": 2**200, "reason": "quota"}).encode(),
        json.dumps({"first": 0, "last": 1, "reason": "because"}).encode(),
        json.dumps(report).encode(),
        json.dumps(near).encode(),
        json.dumps({**near, "uptime_seconds": float("nan")}).encode(),
    ]
    gaps = f"/v1/streams/{new_stream_id()}/gaps"
    for path in ("/v1/enroll", "/v1/renew-expired", "/v1/renew", "/v1/health", gaps, LOKI, WRITE):
        wire = attacker.wire(host)
        for body in bodies:
            answer = wire.ask("POST", path, body, JSON)
            assert answer.status < 500, (path, body[:200], answer.body)
    shown = attacker.server.cli("host", "show", host.name, "--json")
    assert json.loads(shown.stdout)["name"] == host.name
    assert "\u202e" not in attacker.server.cli("host", "show", host.name).stdout
