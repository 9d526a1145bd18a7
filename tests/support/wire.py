"""Hosts and attackers at the level of bytes: raw TLS connections to a real server."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sib_protocol.batches import encode_lines
from sib_protocol.identity import server_trust
from sib_protocol.ids import new_stream_id
from sib_protocol.keys import key_pem, make_csr, new_key
from sib_protocol.messages import CertificateAnswer, EnrollRequest
from sib_server.fleet.enrollment import Fleet
from sib_server.pki.tokens import TokenStore
from tests.support.lab import Server

PATIENCE = 15.0
LOKI = "/loki/api/v1/push"
WRITE = "/api/v1/write"
STREAM = "/v1/streams/{}/events?first={}"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The refusal's word; every refusal is JSON of one form."""
        found = msgspec.json.decode(self.body)
        assert {"error", "problem"} <= set(found) <= {"error", "problem", "remedy"}
        return str(found["error"])

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Wire:
    """One connection: bytes out, HTTP answers in."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._left = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        with suppress(OSError):
            self.socket.close()

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self._left += data
        return bool(data)

    def answer(self) -> Answer | None:
        """The next answer; ``None`` if the server hung up instead."""
        try:
            while b"\r\n\r\n" not in self._left:
                if not self._more():
                    assert not self._left
                    return None
            head, _, self._left = self._left.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            pairs = [line.partition(":") for line in lines[1:]]
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            length = int(headers.get("content-length", 0))
            while len(self._left) < length:
                assert self._more(), "an answer was cut short"
        except (ConnectionError, ssl.SSLError):
            return None
        body, self._left = self._left[:length], self._left[length:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        found = self.try_ask(method, target, body, headers)
        assert found is not None, "the server hung up"
        return found

    def try_ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer | None:
        lines = [f"{method} {target} HTTP/1.1", "Host: sib"]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        with suppress(ConnectionError, ssl.SSLError):
            self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b""))
        return self.answer()

    def deliver(self, stream: str, first: int, *lines: bytes) -> Answer:
        return self.ask("POST", STREAM.format(stream, first), encode_lines(lines))

    def hung_up(self, seconds: float) -> bool:
        """Whether the server ends the connection within a time, saying nothing more."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(65536) == b""
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            return True


@dataclass(frozen=True)
class Host:
    """An enrolled host that speaks for itself."""

    name: str
    id: str
    key: ec.EllipticCurvePrivateKey
    certificate: str
    directory: Path

    @property
    def serial(self) -> str:
        found = x509.load_pem_x509_certificate(self.certificate.encode())
        return format(found.serial_number, "x")

    def context(self, ca: str) -> ssl.SSLContext:
        context = server_trust(ca)
        pair = self.directory / f"{self.name}-{self.serial}.pem"
        if not pair.exists():
            pair.write_bytes(self.certificate.encode() + key_pem(self.key))
        context.load_cert_chain(pair)
        return context


def connect(port: int, context: ssl.SSLContext | None, *, seconds: float = PATIENCE) -> Wire:
    plain = socket.create_connection(("127.0.0.1", port), seconds)
    plain.settimeout(seconds)
    if context is None:
        return Wire(plain)
    try:
        return Wire(context.wrap_socket(plain, server_hostname="127.0.0.1"))
    except BaseException:
        plain.close()
        raise


class Attacker:
    """Everything that the tests need of one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ca = server.authority.certificate_pem
        self._open: list[Wire] = []

    def wire(self, host: Host | None = None, context: ssl.SSLContext | None = None) -> Wire:
        if context is None:
            context = server_trust(self.ca) if host is None else host.context(self.ca)
        made = connect(self.server.port, context)
        self._open.append(made)
        return made

    def plain(self) -> Wire:
        made = connect(self.server.port, None)
        self._open.append(made)
        return made

    def close(self) -> None:
        for wire in self._open:
            wire.close()

    def refused_by_tls(self, context: ssl.SSLContext) -> bool:
        """Whether a handshake fails; with TLS 1.3 the client learns it at its first read."""
        try:
            wire = self.wire(context=context)
        except (ssl.SSLError, ConnectionError):
            return True
        return wire.try_ask("GET", "/v1/ca") is None

    def enroll(self, name: str, *, age: timedelta = timedelta(0)) -> Host:
        """A host that enrolled so long ago, in the real service's own way."""
        now = time.time_ns() - int(age.total_seconds() * 1e9)
        context = self.server.context()
        try:
            tokens = TokenStore(context.state, clock=lambda: now)
            fleet = Fleet(context.state, context.authority, clock=lambda: now)
            token = tokens.create(ttl=timedelta(hours=1), uses=1)
            key = new_key()
            answer = fleet.enroll(
                EnrollRequest(token.record.id, token.secret, name, make_csr(key, name)),
                remote="127.0.0.1",
            )
        finally:
            context.close()
        return self.keep(name, key, answer)

    def keep(self, name: str, key: ec.EllipticCurvePrivateKey, answer: CertificateAnswer) -> Host:
        return Host(name, answer.host_id, key, answer.certificate, self.server.directory)

    @contextmanager
    def stream_of(self, host: Host, *lines: bytes) -> Iterator[str]:
        stream = new_stream_id()
        wire = self.wire(host)
        assert wire.deliver(stream, 0, *lines).json() == {"next": len(lines)}
        yield stream
        found = wire.ask("GET", f"/v1/streams/{stream}")
        assert (found.status, found.json()) == (200, {"next": len(lines)}), "the stream was harmed"


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of process {pid}")


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


names = iter(range(10**6))


def fresh(attacker: Attacker, age: timedelta = timedelta(0)) -> Host:
    return attacker.enroll(f"host-{next(names)}", age=age)
