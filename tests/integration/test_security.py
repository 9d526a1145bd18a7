"""Attacks by strangers, hosts and impostors on a real server process and a real agent."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sib_protocol.batches import encode_lines
from sib_protocol.errors import ExitCode
from sib_protocol.identity import server_trust
from sib_protocol.ids import HostId, HostName, new_stream_id
from sib_protocol.keys import make_csr, new_key
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
from tests.support.lab import Agent, Server
from tests.support.wire import (
    LOKI,
    STREAM,
    WRITE,
    Attacker,
    Host,
    Store,
    Wire,
    fresh,
    names,
)

pytestmark = pytest.mark.timeout(180)

JSON = {"Content-Type": "application/json"}
LIFE = timedelta(days=7)


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
    # The second one is recognised by the shorter way.
    assert wire.deliver(stream, 0, b"before").status == 200
    assert wire.deliver(stream, 1, b"before").status == 200
    context = attacker.server.context()
    context.fleet.revoke_certificate(host.serial)
    answer = wire.deliver(stream, 2, b"after")
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
        "host_name": f"token-{next(names)}",
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

    def __init__(self, directory: Path, *, before: str = "", own: bool = True) -> None:
        authority = Authority.create(directory / "impostor", "lab")
        made = authority.server_certificate(["127.0.0.1"])
        self._answer = (before + (authority.certificate_pem if own else "")).encode()
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


@pytest.mark.parametrize(
    ("relays_the_real_ca", "shows_its_own"), [(False, True), (True, False), (True, True)]
)
def test_an_impostor_learns_nothing_secret(
    shared: Server, tmp_path: Path, relays_the_real_ca: bool, shows_its_own: bool
) -> None:
    # Everybody may have the real one. Its own behind that must not be trusted along with it.
    before = shared.authority.certificate_pem if relays_the_real_ca else ""
    impostor = Impostor(tmp_path, before=before, own=shows_its_own)
    real = EnrollmentToken.parse(shared.token())
    token = EnrollmentToken((f"https://127.0.0.1:{impostor.port}",), real.pin, real.id, real.secret)
    agent = Agent(tmp_path / "agent", f"web-{next(names)}")
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
