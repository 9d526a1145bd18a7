"""Hostile HTTP against a real server process over real TLS."""

from __future__ import annotations

import json
import socket
import ssl
import time
from contextlib import suppress

import pytest

from sib_protocol.ids import new_stream_id
from tests.support.wire import (
    LOKI,
    STREAM,
    WRITE,
    Attacker,
    Store,
    connect,
    fresh,
    resident_bytes,
)

pytestmark = pytest.mark.timeout(180)

JSON = {"Content-Type": "application/json"}


# --- HTTP itself -----------------------------------------------------------------------------

NO_ROUTES = [
    "/",
    "//",
    "/v1",
    "/v1/ca/",
    "/v1//ca",
    "//v1/ca",
    "/V1/ca",
    "/v1/ca%0a",
    "/v1/ca%00",
    "/v1/ca%2f",
    "/v1/ca;x=1",
    "/v1/ca/..",
    "/v1/../v1/ca",
    "/v1/streams/",
    "/v1/streams/..%2f..%2fca",
    f"{LOKI}/",
    f"/{LOKI}",
    f"{LOKI}%0a",
    f"{LOKI}%0d%0aHost:%20evil",
    f"{LOKI}%2f..%2fquery",
    f"{LOKI}/../query",
    f"{LOKI}/%2e%2e/query",
    f"{LOKI};/query",
    f"/..;{LOKI}",
    "/loki/api/v1/query",
    "/loki/api/v1/delete",
    "/loki/api/v1/push/..;/query_range",
    "/loki/api/v1/%2e%2e/%2e%2e/ready",
    "/loki/ready",
    "/ready",
    f"{WRITE}/",
    f"{WRITE}%0a",
    "/api/v1/query",
    "/api/v1/write/%2e%2e/admin/tsdb/delete_series",
    "/api/v1/admin/tsdb/delete_series",
    "/-/reload",
    "/-/quit",
    "/metrics",
    "/healthz",
    "/docs",
    "/openapi.json",
    "/.git/config",
    "*",
]


def test_path_tricks_find_no_route_and_no_store(attacker: Attacker, store: Store) -> None:
    host = fresh(attacker)
    wire = attacker.wire(host)
    before = len(store.seen)
    for path in NO_ROUTES:
        for method in ("GET", "POST"):
            answer = wire.ask(method, path, b"{}", JSON)
            assert answer.status == 404, (method, path, answer)
            assert answer.error == "no_such_route"
    for path, allowed in (
        (LOKI, "POST"),
        (WRITE, "POST"),
        ("/v1/ca", "GET"),
        ("/v1/health", "POST"),
    ):
        for method in ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE"):
            if method == allowed:
                continue
            answer = wire.ask(method, path, b"{}", JSON)
            assert answer.status == 405, (method, path, answer)
            assert answer.error == "no_such_route"
            assert allowed in answer.headers["allow"]
            assert attacker.ca not in answer.body.decode()
    assert len(store.seen) == before


def test_other_spellings_of_a_route_reach_nothing_but_it(attacker: Attacker, store: Store) -> None:
    """Absolute form and percent codes are HTTP; where a push goes is never the sender's choice."""
    host = fresh(attacker)
    wire = attacker.wire(host)
    body = json.dumps({"streams": [{"stream": {"a": "b"}, "values": [["1", "x"]]}]}).encode()
    for target in (
        f"https://evil.example:1{LOKI}",
        f"http://127.0.0.1:9090{LOKI}",
        "/loki/api/v1/pus%68",
        f"{LOKI}?x=/../../query&tenant=evil",
        f"{LOKI}#/../query",
    ):
        before = len(store.seen)
        headers = {"X-Scope-OrgID": "evil", "Host": "evil.example"}
        answer = wire.try_ask("POST", target, body, {**JSON, **headers})
        if answer is None or answer.status == 400:
            wire = attacker.wire(host)
            assert len(store.seen) == before
            continue
        assert answer.status == 204, (target, answer)
        assert [(method, path) for method, path, _ in store.seen[before:]] == [("POST", LOKI)]


SMUGGLED = b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 4,4\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length : 4\r\n",
        b"Content-Length: 0x4\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"X: a\x00b\r\n",
        b"X\x00Y: b\r\n",
        b" folded: x\r\nContent-Length: 0\r\n",
        b": nameless\r\n",
    ],
)
def test_a_request_that_two_readers_could_read_differently_is_refused(
    attacker: Attacker, headers: bytes
) -> None:
    wire = attacker.wire(fresh(attacker))
    wire.send(b"POST /v1/health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n0\r\n\r\n" + SMUGGLED)
    answer = wire.answer()
    if answer is not None:
        assert answer.status == 400, answer
        assert answer.error == "malformed"
    follow = wire.answer()
    assert follow is None, f"the smuggled request was answered: {follow}"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v1/ca HTTP/3.7\r\nHost: x\r\n\r\n",
        b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00" * 5000,
        b"\r\n" * 40_000,
        b"A" * 100_000,
    ],
)
def test_what_is_not_http_is_refused(attacker: Attacker, request_: bytes) -> None:
    wire = attacker.wire()
    with suppress(ConnectionError, ssl.SSLError):
        wire.send(request_)
    answer = wire.answer()
    if answer is not None:
        assert answer.status in {400, 404, 405}, answer
        assert answer.error in {"malformed", "no_such_route"}


def test_an_upgrade_is_not_made(attacker: Attacker) -> None:
    wire = attacker.wire()
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "eA=="}
    for protocol in ("websocket", "h2c"):
        answer = attacker.wire().try_ask("GET", "/v1/ca", None, {**headers, "Upgrade": protocol})
        assert answer is None or answer.status in {200, 400, 426}
    assert wire.ask("GET", "/v1/ca").status == 200


def test_pipelined_requests_are_answered_in_order_and_not_hoarded(attacker: Attacker) -> None:
    host = fresh(attacker)
    wire = attacker.wire(host)
    streams = [new_stream_id() for _ in range(4)]
    wire.send(
        b"".join(f"GET /v1/streams/{one} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for one in streams)
    )
    for stream in streams:
        answer = wire.answer()
        assert answer is not None
        assert stream in answer.body.decode()
    assert attacker.server.process is not None
    before = resident_bytes(attacker.server.process.pid)
    flooding = [attacker.wire() for _ in range(20)]
    for flood in flooding:
        with suppress(ConnectionError, ssl.SSLError):
            flood.send(b"GET /v1/ca HTTP/1.1\r\n\r\n" * 20_000)
    grown = resident_bytes(attacker.server.process.pid) - before
    print(f"20 connections with 20,000 pipelined requests each: {grown / 2**20:.1f} MiB more")
    assert grown < 60 * 2**20
    for flood in flooding:
        flood.close()


def test_huge_heads_and_trailers_are_cut_off(attacker: Attacker) -> None:
    huge = {
        "one header": b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 2**20,
        "many headers": b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 2**18,
        "address": b"GET /" + b"x" * 2**20,
        "trailers": b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 2**18,
        "trailers after the answer": b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"X: y\r\n" * 2**18,
        "chunk extension": b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2**20,
    }
    for what, data in huge.items():
        wire = attacker.wire()
        with suppress(ConnectionError, ssl.SSLError):
            wire.send(data)
            # What was cut off is noticed with the next bytes at the latest.
            time.sleep(0.3)
            for _ in range(20):
                wire.send(b"x" * 1000)
                time.sleep(0.05)
            pytest.fail(f"{what}: still connected")


def test_answers_tell_no_version_and_the_metrics_are_elsewhere(attacker: Attacker) -> None:
    for wire in (attacker.wire(), attacker.wire(fresh(attacker))):
        for method, path in (("GET", "/v1/ca"), ("GET", "/nowhere"), ("POST", "/v1/health")):
            answer = wire.ask(method, path, b"{}")
            assert {"server", "x-powered-by", "via"}.isdisjoint(answer.headers)
            assert "uvicorn" not in str(answer).lower()
        for path in ("/metrics", "/healthz", "/metrics/"):
            assert wire.ask("GET", path).status == 404
    # Where the metrics are, nothing else is.
    metrics = connect(attacker.server.metrics_port, None)
    assert metrics.ask("GET", "/metrics").status == 200
    for path in ("/v1/ca", "/v1/enroll", LOKI):
        assert metrics.ask("POST", path, b"{}").status == 404
    metrics.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((_own_address(), attacker.server.metrics_port), 5)


def _own_address() -> str:
    """An address of this machine that is not the one the metrics listen on."""
    return "127.0.0.2"


def test_a_peer_that_leaves_in_the_middle_is_no_failure_of_the_server(attacker: Attacker) -> None:
    host = fresh(attacker)
    with attacker.stream_of(host, b"kept") as stream:
        for head in (
            f"POST {STREAM.format(stream, 1)} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nxx",
            "POST /v1/health HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{",
            f"POST {LOKI} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{{",
            "POST /v1/hea",
        ):
            wire = attacker.wire(host)
            wire.send(head.encode())
            time.sleep(0.1)
            wire.close()
        time.sleep(0.5)
    log = attacker.server.log.read_text()
    assert "failed" not in log
    assert "Traceback" not in log
