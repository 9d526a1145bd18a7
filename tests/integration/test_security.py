"""Attacks on a real server process over real TLS, and on a real agent by an impostor."""

from __future__ import annotations

import gzip
import json
import resource
import select
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sib_protocol.batches import encode_lines
from sib_protocol.errors import ExitCode
from sib_protocol.identity import server_trust
from sib_protocol.ids import HostId, HostName, new_stream_id
from sib_protocol.keys import make_csr, new_key
from sib_protocol.limits import MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_MESSAGE_BYTES
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    GapReason,
    GapReport,
    RenewRequest,
    encode_message,
)
from sib_protocol.tokens import EnrollmentToken
from sib_server.pki.authority import Authority
from sib_server.pki.requests import read_request
from sib_server.pki.tokens import TokenStore
from tests.support.lab import Agent, Server, event_line, number_of
from tests.support.proxy import wait_for
from tests.support.wire import STREAM, Attacker, Host, Wire, connect, resident_bytes

pytestmark = pytest.mark.timeout(180)

LOKI = "/loki/api/v1/push"
WRITE = "/api/v1/write"
JSON = {"Content-Type": "application/json"}
LIFE = timedelta(days=7)


class Store:
    """Stands where Loki and Prometheus would, and writes down what reaches it."""

    def __init__(self) -> None:
        store = self
        self.seen: list[tuple[str, str, bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                store.seen.append((self.command, self.path, body))
                self.send_response(204)
                self.end_headers()

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815  (the base's names)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Iterator[Server]:
    """One server for all attacks that need no other settings; none may make it fail."""
    running = Server(
        tmp_path_factory.mktemp("attacked") / "server",
        {
            "fleet": {"attempts_burst": 10_000},
            "push": {"loki_url": store.url, "metrics_url": f"{store.url}{WRITE}"},
        },
    )
    running.start()
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def attacker(shared: Server) -> Iterator[Attacker]:
    made = Attacker(shared)
    yield made
    made.close()


_names = iter(range(10**6))


def fresh(attacker: Attacker, age: timedelta = timedelta(0)) -> Host:
    return attacker.enroll(f"host-{next(_names)}", age=age)


# --- who is let in ---------------------------------------------------------------------------


def test_without_a_certificate_only_the_three_open_routes_answer(attacker: Attacker) -> None:
    stream = new_stream_id()
    closed = [
        ("POST", "/v1/renew"),
        ("POST", "/v1/health"),
        ("GET", f"/v1/streams/{stream}"),
        ("POST", STREAM.format(stream, 0)),
        ("POST", f"/v1/streams/{stream}/gaps"),
        ("POST", LOKI),
        ("POST", WRITE),
    ]
    wire = attacker.wire()
    for method, path in closed:
        answer = wire.ask(method, path, b"{}")
        assert (answer.status, answer.error) == (401, "certificate_required"), path
    assert wire.ask("GET", "/v1/ca").body.decode() == attacker.ca
    assert wire.ask("POST", "/v1/enroll", b"{}").status == 400
    assert wire.ask("POST", "/v1/renew-expired", b"{}").status == 400


def test_another_ca_s_certificate_ends_in_the_handshake(attacker: Attacker, tmp_path: Path) -> None:
    ours = fresh(attacker)
    foreign = Authority.create(tmp_path / "pki", "lab")
    key = new_key()
    request = read_request(make_csr(key, ours.name))
    made = foreign.issue_host_certificate(request, HostId(ours.id), HostName(ours.name))
    pem = made.public_bytes(Encoding.PEM)
    answer = CertificateAnswer(ours.id, ours.name, pem.decode(), attacker.ca)
    thief = Host(ours.name, ours.id, key, answer.certificate, tmp_path)
    assert attacker.refused_by_tls(thief.context(attacker.ca))
    # The server's own certificate is no client's either.
    server = attacker.server.authority.installed_server_certificate()
    assert server is not None
    context = server_trust(attacker.ca)
    context.load_cert_chain(server.certificate_path, server.key_path)
    if not attacker.refused_by_tls(context):
        answer_ = attacker.wire(context=context).ask("POST", "/v1/health", b"{}")
        assert answer_.status == 401


def test_a_certificate_by_the_ca_that_the_ledger_does_not_know_is_refused(
    attacker: Attacker, tmp_path: Path
) -> None:
    victim = fresh(attacker)
    key = new_key()
    forged = attacker.server.authority.issue_host_certificate(
        read_request(make_csr(key, "x")), HostId(victim.id), HostName(victim.name)
    )

    thief = Host(victim.name, victim.id, key, forged.public_bytes(Encoding.PEM).decode(), tmp_path)
    with attacker.stream_of(victim, b"{}") as stream:
        wire = attacker.wire(thief)
        answer = wire.deliver(stream, 1, b"forged")
        assert (answer.status, answer.error) == (401, "certificate_unknown")
        assert wire.ask("GET", f"/v1/streams/{stream}").error == "certificate_unknown"


def test_an_expired_certificate_ends_in_the_handshake(attacker: Attacker) -> None:
    expired = fresh(attacker, LIFE + timedelta(minutes=1))
    assert attacker.refused_by_tls(expired.context(attacker.ca))


def test_a_connection_that_outlives_its_certificate_is_refused(attacker: Attacker) -> None:
    dying = fresh(attacker, LIFE - timedelta(seconds=6))
    wire = attacker.wire(dying)
    stream = new_stream_id()
    assert wire.deliver(stream, 0, b"in time").status == 200
    time.sleep(7)
    answer = wire.deliver(stream, 1, b"too late")
    assert (answer.status, answer.error) == (401, "certificate_expired")


def test_a_revocation_holds_from_the_next_request_on(attacker: Attacker) -> None:
    host = fresh(attacker)
    wire = attacker.wire(host)
    stream = new_stream_id()
    assert wire.deliver(stream, 0, b"before").status == 200
    context = attacker.server.context()
    context.fleet.revoke_certificate(host.serial)
    answer = wire.deliver(stream, 1, b"after")
    assert (answer.status, answer.error) == (401, "certificate_revoked")
    for path in ("/v1/renew", LOKI, WRITE, "/v1/health"):
        assert wire.ask("POST", path, b"{}").error == "certificate_revoked"
    removed = fresh(attacker)
    wire = attacker.wire(removed)
    assert wire.deliver(new_stream_id(), 0, b"before").status == 200
    context.fleet.remove_host(removed.name)
    assert wire.deliver(new_stream_id(), 0, b"after").error == "host_removed"
    context.close()


def test_tls_1_3_only(attacker: Attacker) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=attacker.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        attacker.wire(context=old)
    connection = attacker.wire().socket
    assert isinstance(connection, ssl.SSLSocket)
    assert connection.version() == "TLSv1.3"
    # Plain HTTP to the TLS port gets no HTTP.
    plain = attacker.plain()
    plain.send(b"GET /v1/ca HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP" not in _read_all(plain)


def _read_all(wire: Wire) -> bytes:
    found = b""
    with suppress(ConnectionError, ssl.SSLError):
        while data := wire.socket.recv(65536):
            found += data
    return found


# --- host A claims to be host B --------------------------------------------------------------


def test_one_host_cannot_touch_another_s_stream(attacker: Attacker) -> None:
    mallory, victim = fresh(attacker), fresh(attacker)
    with attacker.stream_of(victim, b"one", b"two") as stream:
        wire = attacker.wire(mallory)
        for first in (0, 2, 1, 10**6):
            answer = wire.deliver(stream, first, b"mine")
            assert (answer.status, answer.error) == (403, "stream_refused")
            assert victim.id not in answer.body.decode()
        gap = encode_message(GapReport(2, 10**6, GapReason.QUOTA))
        assert wire.ask("POST", f"/v1/streams/{stream}/gaps", gap).error == "stream_refused"
        answer = wire.ask("GET", f"/v1/streams/{stream}")
        assert (answer.status, answer.error) == (404, "unknown_stream")
        unknown = wire.ask("GET", f"/v1/streams/{new_stream_id()}")
        assert (unknown.status, unknown.error) == (404, "unknown_stream")


def test_renewal_gives_the_host_of_the_certificate_whatever_the_request_says(
    attacker: Attacker,
) -> None:
    mallory, victim = fresh(attacker), fresh(attacker)
    wire = attacker.wire(mallory)
    csr = make_csr(new_key(), victim.name)
    body = encode_message(RenewRequest(csr))
    extended = json.loads(body) | {"host_id": victim.id, "host_name": victim.name}
    answer = wire.ask("POST", "/v1/renew", json.dumps(extended).encode())
    assert answer.status == 200
    assert (answer.json()["host_id"], answer.json()["host_name"]) == (mallory.id, mallory.name)
    # A request by the victim's own key is not for Mallory.
    theirs = make_csr(victim.key, "x")
    answer = wire.ask("POST", "/v1/renew", encode_message(RenewRequest(theirs)))
    assert (answer.status, answer.error) == (409, "key_taken")


def test_what_a_payload_says_of_its_host_is_not_believed(attacker: Attacker, store: Store) -> None:
    host, victim = fresh(attacker), fresh(attacker)
    wire = attacker.wire(host)
    line = json.dumps(
        {"rule": "Claimed", "hostname": victim.name, "host_id": victim.id, "host": victim.name}
    ).encode()
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Host-Id": victim.id}
    path = STREAM.format(new_stream_id(), 0)
    assert wire.ask("POST", path, encode_lines([line]), headers).status == 200
    found = json.loads(
        attacker.server.cli("events", "search", "--json", "--rule", "Claimed").stdout
    )
    assert (found["host_id"], found["host_name"]) == (host.id, host.name)
    push = {"streams": [{"stream": {"host": victim.name, "job": "x"}, "values": [["1", "x"]]}]}
    assert wire.ask("POST", LOKI, json.dumps(push).encode(), JSON).status == 204
    (stream,) = json.loads(store.seen[-1][2])["streams"]
    assert stream["stream"] == {"host": host.name, "job": "x"}


# --- tokens ----------------------------------------------------------------------------------


def _enrollment(token: EnrollmentToken, csr: str | None = None, **changed: str) -> bytes:
    fields = {
        "token_id": token.id,
        "secret": token.secret,
        "host_name": f"token-{next(_names)}",
        "csr": csr or make_csr(new_key(), "x"),
    }
    return encode_message(EnrollRequest(**fields | changed))


def test_tokens_replayed_used_up_expired_and_revoked_enroll_nobody(attacker: Attacker) -> None:
    wire = attacker.wire()

    def enroll(body: bytes) -> tuple[int, str]:
        answer = wire.ask("POST", "/v1/enroll", body)
        return answer.status, "" if answer.status == 200 else answer.error

    token = EnrollmentToken.parse(attacker.server.token(uses=2))
    body = _enrollment(token)
    assert enroll(body) == (200, "")
    assert enroll(body) == (409, "token_replayed")
    assert enroll(_enrollment(token)) == (200, "")
    assert enroll(_enrollment(token)) == (403, "token_used_up")

    context = attacker.server.context()
    past = time.time_ns() - 3600 * 10**9
    old = TokenStore(context.state, clock=lambda: past).create(ttl=timedelta(minutes=59))
    gone = context.tokens.create(ttl=timedelta(hours=1))
    context.tokens.revoke(gone.record.id)
    urls, pin = context.server_urls, context.authority.pin
    context.close()
    expired = EnrollmentToken(urls, pin, old.record.id, old.secret)
    revoked = EnrollmentToken(urls, pin, gone.record.id, gone.secret)
    assert enroll(_enrollment(expired)) == (403, "token_expired")
    assert enroll(_enrollment(revoked)) == (403, "token_revoked")
    # Without the secret nobody learns any of this.
    for known in (token, expired, revoked):
        assert enroll(_enrollment(known, secret="A" * 43)) == (403, "token_invalid")


def test_guessing_is_slowed_down_and_tells_nothing(server: Server) -> None:
    attacker = Attacker(server)
    token = EnrollmentToken.parse(server.token())
    wire = attacker.wire()
    unknown = wire.ask("POST", "/v1/enroll", _enrollment(token, token_id="0" * 16))
    wrong = wire.ask("POST", "/v1/enroll", _enrollment(token, secret="A" * 43))
    assert (unknown.status, unknown.body) == (wrong.status, wrong.body)
    assert wrong.error == "token_invalid"
    answers = [
        wire.ask("POST", "/v1/enroll", _enrollment(token, secret="A" * 43)) for _ in range(40)
    ]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) >= 15
    assert refused[-1].error == "too_many_attempts"
    assert 1 <= int(refused[-1].headers["retry-after"]) <= 60
    # The right secret has to wait, too, and the server goes on for those who are in.
    assert wire.ask("POST", "/v1/enroll", _enrollment(token)).status == 429
    host = attacker.enroll("inside")
    assert attacker.wire(host).deliver(new_stream_id(), 0, b"x").status == 200
    log = server.log.read_text()
    assert token.secret not in log
    assert "A" * 43 not in log
    attacker.close()


# --- an impostor in the server's place -------------------------------------------------------


class Impostor:
    """Answers over TLS at an address that a token names, and writes down all it hears."""

    def __init__(self, directory: Path, ca_answer: str | None = None) -> None:
        authority = Authority.create(directory / "impostor", "lab")
        made = authority.server_certificate(["127.0.0.1"])
        self._answer = (ca_answer or authority.certificate_pem).encode()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(made.certificate_path, made.key_path)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.heard = b""
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listening.accept()
                self.connections += 1
                plain.settimeout(5)
                with suppress(OSError, ssl.SSLError), plain:
                    self._serve(self._context.wrap_socket(plain, server_side=True))

    def _serve(self, connection: ssl.SSLSocket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.heard += data
                if b"\r\n\r\n" in data:
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self._answer)
                    connection.sendall(head + self._answer)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@pytest.mark.parametrize("relays_the_real_ca", [False, True])
def test_an_impostor_learns_nothing_secret(
    shared: Server, tmp_path: Path, relays_the_real_ca: bool
) -> None:
    ca = shared.authority.certificate_pem if relays_the_real_ca else None
    impostor = Impostor(tmp_path, ca)
    real = EnrollmentToken.parse(shared.token())
    token = EnrollmentToken((f"https://127.0.0.1:{impostor.port}",), real.pin, real.id, real.secret)
    agent = Agent(tmp_path / "agent", f"web-{next(_names)}")
    done = agent.cli("enroll", "--name", agent.name, text=token.text(), check=False)
    impostor.close()
    # With the real CA in its mouth it still cannot show a certificate by it.
    wanted = ExitCode.UNREACHABLE if relays_the_real_ca else ExitCode.UNTRUSTED
    assert done.returncode == wanted, done.stderr
    assert "Traceback" not in done.stderr
    assert impostor.connections >= 1
    assert impostor.heard.startswith(b"GET /v1/ca HTTP/1.1\r\n")
    assert b"POST" not in impostor.heard
    for secret in (token.secret, token.id, agent.name):
        assert secret.encode() not in impostor.heard
    assert token.secret not in done.stderr + done.stdout
    assert not list((tmp_path / "agent").glob("identity/*"))


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


# --- slow peers and many of them -------------------------------------------------------------


def test_slow_peers_are_cut_off(attacker: Attacker) -> None:
    host = fresh(attacker)
    never = attacker.plain()
    partial = attacker.plain()
    partial.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    head = attacker.wire()
    head.send(b"GET /v1/ca HTTP/1.1\r\nX: ")
    later_head = attacker.wire(host)
    assert later_head.ask("GET", "/v1/ca").status == 200
    later_head.send(b"GET /v1/ca HTTP/1.1\r\nX: ")
    body = attacker.wire(host)
    path = STREAM.format(new_stream_id(), 0)
    body.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
    push = attacker.wire(host)
    push.send(f"POST {LOKI} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
    unread = attacker.wire()
    unread.send(b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    answered = unread.answer()
    assert answered is not None
    assert answered.status == 200
    idle = attacker.wire()
    assert idle.ask("GET", "/v1/ca").status == 200
    resting = attacker.wire(host)
    assert resting.ask("GET", "/v1/ca").status == 200

    dripping = [partial, head, later_head, body, push, unread]
    start = time.monotonic()
    ended: dict[int, float] = {}
    while time.monotonic() - start < 14:
        for wire in dripping:
            if id(wire) not in ended:
                try:
                    wire.send(b"x")
                except (ConnectionError, ssl.SSLError):
                    ended[id(wire)] = time.monotonic() - start
        time.sleep(0.25)
    for name, wire, status in (("body", body, 408), ("push", push, 408)):
        answer = wire.answer()
        # The answer may be lost behind bytes that came after the server had closed.
        assert answer is None or answer.status == status, name
    places = {id(wire): number for number, wire in enumerate(dripping)}
    missing = [number for key, number in places.items() if key not in ended]
    assert not missing, f"still connected: {missing}"
    assert max(ended.values()) < 13.5
    assert never.hung_up(1)
    assert idle.hung_up(1)
    # A host's own connection may rest.
    assert resting.ask("GET", "/v1/ca").status == 200


def test_one_host_and_one_stranger_have_so_many_connections_and_no_more(
    attacker: Attacker,
) -> None:
    host, other = fresh(attacker), fresh(attacker)
    mine = [attacker.wire(host) for _ in range(100)]
    alive = sum(wire.try_ask("GET", f"/v1/streams/{new_stream_id()}") is not None for wire in mine)
    assert alive == 32
    assert attacker.wire(other).deliver(new_stream_id(), 0, b"x").status == 200
    strangers = [attacker.wire() for _ in range(100)]
    alive = sum(wire.try_ask("GET", "/v1/ca") is not None for wire in strangers)
    assert alive <= 64
    assert attacker.wire(other).deliver(new_stream_id(), 0, b"x").status == 200
    attacker.close()
    wait_for("room again", lambda: attacker.wire(host).try_ask("GET", "/v1/ca") is not None, 10)


IDLE = 10_000
MEMORY_BOUND = 192 * 2**20
"""What 10,000 idle connections may cost the server, beyond what it takes at rest."""


def test_ten_thousand_idle_connections_stop_no_agent(server: Server, agent: Agent) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 1000:
        pytest.skip(f"needs {IDLE + 1000} open files, the hard limit is {hard}: raise it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attacker = Attacker(server)
    known = attacker.enroll("known-1")
    agent.start()
    agent.append(event_line(0))
    wait_for("the first line", lambda: len(server.lines()) == 1, 20)
    assert server.process is not None
    pid = server.process.pid
    before = resident_bytes(pid)

    idle: list[socket.socket] = []
    worst = before
    written = 1
    stop = threading.Event()

    def greet() -> None:
        # Some of them do end their handshake, and then rest.
        while not stop.is_set():
            with suppress(OSError):
                attacker.wire()

    greeting = threading.Thread(target=greet)
    greeting.start()
    start = time.monotonic()
    try:
        for number in range(IDLE):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", server.port))
            idle.append(one)
            if number % 250 == 0:
                worst = max(worst, resident_bytes(pid))
                agent.append(event_line(written))
                written += 1
        opened = time.monotonic() - start
        # All at once, and kept up for a while: those that were cut off come again.
        end = time.monotonic() + 15
        while time.monotonic() < end:
            worst = max(worst, resident_bytes(pid))
            agent.append(event_line(written))
            written += 1
            watched = select.poll()
            for one in idle:
                watched.register(one, select.POLLIN | select.POLLHUP | select.POLLERR)
            gone = {fd for fd, _ in watched.poll(0)}
            for place, one in enumerate(idle):
                if one.fileno() in gone:
                    one.close()
                    again = socket.socket()
                    again.setblocking(False)
                    again.connect_ex(("127.0.0.1", server.port))
                    idle[place] = again
            time.sleep(0.25)
        assert len(idle) == IDLE
        wait_for("every line", lambda: len(server.lines()) == written, 30)
        asked = time.monotonic()
        context = known.context(attacker.ca)
        late = connect(server.port, context, seconds=40)
        assert late.deliver(new_stream_id(), 0, b"let in").status == 200
        waited = time.monotonic() - asked
        late.close()
    finally:
        stop.set()
        greeting.join(30)
        for one in idle:
            one.close()
        attacker.close()
    found = sorted(number_of(line) for line in server.lines() if line.startswith(b"{"))
    assert found == list(range(written))
    print(
        f"{IDLE} idle connections (opened in {opened:.1f} s): resident {before / 2**20:.1f} MiB"
        f" before, {worst / 2**20:.1f} MiB at most, {resident_bytes(pid) / 2**20:.1f} MiB at the"
        f" end; a known host got in after {waited:.2f} s"
    )
    assert worst - before < MEMORY_BOUND
    assert agent.status()["state"] == "well"
