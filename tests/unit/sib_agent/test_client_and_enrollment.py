from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_agent import enrollment
from sib_agent.client import (
    Answer,
    ServerBusyError,
    ServerClient,
    ServerRefusedError,
    ServerUnreachableError,
    judge,
    parse_retry_after,
)
from sib_agent.enrollment import PinMismatchError, UnusableAnswerError, check_answer
from sib_protocol.errors import ExitCode, MalformedMessageError
from sib_protocol.identity import IdentityStore, NotEnrolledError, server_trust
from sib_protocol.ids import HostName, new_host_id
from sib_protocol.keys import make_csr, new_key
from sib_protocol.limits import MAX_MESSAGE_BYTES
from sib_protocol.messages import CertificateAnswer, Refusal, StreamAnswer, encode_message
from sib_protocol.tokens import EnrollmentToken
from sib_server.pki.authority import Authority
from sib_server.pki.requests import read_request
from tests.support.live import LiveServer

REFUSAL = encode_message(Refusal("word", "a sentence", "a remedy"))


@pytest.mark.parametrize("status", [200, 204, 299, 409])
def test_answers(status: int) -> None:
    assert judge(status, {}, b"x") == Answer(status, b"x")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 599])
def test_answers_that_ask_to_wait(status: int) -> None:
    with pytest.raises(ServerBusyError, match="a sentence") as caught:
        judge(status, {"retry-after": "7"}, REFUSAL)
    assert (caught.value.status, caught.value.retry_after) == (status, 7.0)
    assert caught.value.exit_code is ExitCode.UNREACHABLE


@pytest.mark.parametrize("status", [100, 301, 302, 400, 401, 403, 404, 413])
def test_answers_that_say_no(status: int) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        judge(status, {}, REFUSAL)
    assert (caught.value.status, caught.value.code, caught.value.remedy) == (
        status,
        "word",
        "a remedy",
    )
    with pytest.raises(ServerRefusedError, match=f"status {status}"):
        judge(status, {}, b"<html>")


@given(st.text(max_size=12))
def test_retry_after_is_bounded_whatever_it_says(text: str) -> None:
    found = parse_retry_after({"retry-after": text})
    assert found is None or 0 <= found <= 300


def test_retry_after() -> None:
    assert parse_retry_after({}) is None
    assert parse_retry_after({"retry-after": "31536000"}) == 300
    assert parse_retry_after({"retry-after": "²"}) is None
    assert parse_retry_after({"retry-after": "9" * 10}) is None


class Scripted:
    """A TLS server that gives prepared answers, one a request."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority.create(directory, "scripted")
        made = self.authority.server_certificate(["127.0.0.1"])
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(made.certificate_path, made.key_path)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self.answers: list[bytes] = []
        self.connections = 0
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listening.accept()
                self.connections += 1
                plain.settimeout(10)
                with suppress(OSError), plain:
                    self._serve(self._context.wrap_socket(plain, server_side=True))

    def _serve(self, connection: ssl.SSLSocket) -> None:
        with connection:
            while data := connection.recv(65536):
                head, _, body = data.partition(b"\r\n\r\n")
                _, _, size = head.lower().partition(b"content-length: ")
                while len(body) < int(size.split()[0] if size else 0):
                    body += connection.recv(65536)
                self.requests.append(data)
                answer = self.answers.pop(0)
                connection.sendall(answer)
                if b"Content-Length" not in answer or b"cut" in answer:
                    return

    def client(self, *urls: str) -> ServerClient:
        pem = self.authority.certificate_pem
        return ServerClient(urls or (self.url,), lambda: server_trust(pem), timeout=5)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(12)


def http(body: bytes, status: str = "200 OK", *more: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [b"HTTP/1.1 " + status.encode(), b"Content-Length: %d" % size, *more]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    made = Scripted(tmp_path / "scripted")
    yield made
    made.close()


def test_one_connection_carries_many_requests(scripted: Scripted) -> None:
    scripted.answers = [http(b'{"next": 1}'), http(b"", "204 No Content"), http(b"{}")]
    client = scripted.client()
    assert client.get("/a").decode(StreamAnswer) == StreamAnswer(1)
    assert client.post("/b", b"x", content_type="text/x", gzip=True).status == 204
    with pytest.raises(MalformedMessageError):
        client.post_message("/c", StreamAnswer(1)).decode(StreamAnswer)
    assert scripted.connections == 1
    assert b"content-encoding: gzip" in scripted.requests[1]
    assert b"user-agent: sib-agent/" in scripted.requests[0].lower()
    scripted.answers = [http(b"{}")]
    client.renewed()
    client.get("/d")
    assert scripted.connections == 2
    client.close()


def test_answers_that_are_too_long_cut_or_encoded(scripted: Scripted) -> None:
    client = scripted.client()
    scripted.answers = [http(b"x" * (MAX_MESSAGE_BYTES + 10))]
    with pytest.raises(ServerUnreachableError, match="too long"):
        client.get("/")
    scripted.answers = [http(b"cut", length=100)]
    with pytest.raises(ServerUnreachableError):
        client.get("/")
    scripted.answers = [b"nonsense\r\n\r\n"]
    with pytest.raises(ServerUnreachableError):
        client.get("/")
    # A bomb in an answer is not unpacked.
    scripted.answers = [http(b"\x1f\x8bzz", "200 OK", b"Content-Encoding: gzip")]
    assert client.get("/").body == b"\x1f\x8bzz"
    scripted.answers = [http(b"", "302 Found", b"Location: https://evil.example/")]
    with pytest.raises(ServerRefusedError):
        client.get("/")
    client.close()


def test_the_next_server_is_tried_and_remembered(scripted: Scripted) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"https://127.0.0.1:{probe.getsockname()[1]}"
    client = scripted.client(dead, scripted.url)
    scripted.answers = [http(b"1"), http(b"2")]
    assert client.get("/").body == b"1"
    with mock.patch.object(client, "_send_to", wraps=client._send_to) as sent:
        assert client.get("/").body == b"2"
        assert sent.call_args_list[0].args[0] == scripted.url
    client.close()
    lonely = scripted.client(dead)
    with pytest.raises(ServerUnreachableError, match="refused") as caught:
        lonely.get("/")
    assert caught.value.server == dead
    assert not caught.value.handshake
    lonely.close()


@pytest.mark.parametrize("many", [2, 3, 4])
def test_every_server_is_tried_however_many_are_dead(scripted: Scripted, many: int) -> None:
    with ExitStack() as stack:
        dead = []
        for _ in range(many):
            # Bound and never listening: nobody else gets the port, and connecting is refused.
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            dead.append(f"https://127.0.0.1:{taken.getsockname()[1]}")
        client = scripted.client(*dead, scripted.url)
        scripted.answers = [http(b"1"), http(b"2")]
        assert client.get("/").body == b"1"
        assert b"".join(client.stream("/", time.monotonic() + 30)) == b"2"
        client.close()


def test_another_ca_s_server_is_not_spoken_to(scripted: Scripted, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "other")
    client = ServerClient((scripted.url,), lambda: server_trust(other.certificate_pem))
    with pytest.raises(ServerUnreachableError) as caught:
        client.get("/")
    assert caught.value.handshake
    assert scripted.requests == []
    client.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> IdentityStore:
    return IdentityStore(tmp_path / "identity")


NAME = HostName("web-1")


def set_back(store: IdentityStore, seconds: int) -> None:
    """As if the certificate had ended so long ago, by the host's clock."""
    path = store.current.resolve() / "identity.json"
    known = store.load()
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, not_after=seconds)))


def test_enrolling_and_renewing(live: LiveServer, store: IdentityStore) -> None:
    first = enrollment.enroll(live.token(), NAME, store)
    assert (first.host_name, store.load()) == (NAME, first)
    second = enrollment.renew(store)
    assert second.serial != first.serial
    assert second.host_id == first.host_id
    set_back(store, 5)
    third = enrollment.renew(store)
    assert third.serial != second.serial
    assert third.not_after > time.time()


def test_a_wrong_clock_falls_back_to_the_proof(live: LiveServer, store: IdentityStore) -> None:
    enrollment.enroll(live.token(), NAME, store)
    for error in (
        ServerRefusedError(401, Refusal("certificate_expired", "x")),
        ServerUnreachableError("https://x", "bad certificate", handshake=True),
    ):
        before = store.load().serial
        with mock.patch.object(enrollment, "_renew_by_tls", side_effect=error):
            assert enrollment.renew(store).serial != before
    for other in (
        ServerRefusedError(401, Refusal("certificate_revoked", "x")),
        ServerUnreachableError("https://x", "no route"),
    ):
        with (
            mock.patch.object(enrollment, "_renew_by_tls", side_effect=other),
            pytest.raises(type(other)),
        ):
            enrollment.renew(store)


def test_nothing_to_renew(store: IdentityStore) -> None:
    with pytest.raises(NotEnrolledError):
        enrollment.renew(store)


def test_a_token_for_another_ca_is_not_used(live: LiveServer, store: IdentityStore) -> None:
    token = live.token(pin="0" * 64)
    with pytest.raises(PinMismatchError) as caught:
        enrollment.enroll(token, NAME, store)
    assert caught.value.exit_code is ExitCode.UNTRUSTED
    assert token.secret not in str(caught.value)
    assert live.fleet.hosts() == []


def test_what_is_no_ca_is_told(scripted: Scripted, store: IdentityStore) -> None:
    token = EnrollmentToken((scripted.url,), "0" * 64, "0" * 16, "A" * 43)
    for body in (b"", b"hello", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END"):
        scripted.answers = [http(body)]
        with pytest.raises(UnusableAnswerError):
            enrollment.fetch_ca(token)


def test_only_the_certificate_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    ours, other = (Authority.create(tmp_path / name, name) for name in ("ours", "other"))
    key, name, host = new_key(), NAME, new_host_id()

    def answer(authority: Authority, **changed: str) -> CertificateAnswer:
        request = read_request(make_csr(key, name))
        made = authority.issue_host_certificate(request, host, name)
        fields = {
            "host_id": host,
            "host_name": name,
            "certificate": made.public_bytes(Encoding.PEM).decode(),
            "ca": ours.certificate_pem,
        }
        return CertificateAnswer(**{**fields, **changed})

    def check(message: CertificateAnswer, by: object = key) -> str:
        trusted = ours.certificate_pem
        return check_answer(message, by, ("https://x",), trusted=trusted, now=5).host_id  # type: ignore[arg-type]

    assert check(answer(ours)) == host
    for wrong in (
        answer(other),
        answer(ours, certificate="x"),
        answer(ours, certificate=ours.certificate_pem),
        answer(ours, ca="x"),
        answer(ours, ca=""),
        answer(ours, host_id="x"),
        answer(ours, host_name="a/../b"),
        answer(ours, certificate="\ud800"),
    ):
        with pytest.raises(UnusableAnswerError) as caught:
            check(wrong)
        assert caught.value.exit_code is ExitCode.UNTRUSTED
    with pytest.raises(UnusableAnswerError, match="another key"):
        check(answer(ours), new_key())
