"""uvicorn's HTTP protocol, with the peer's certificate in the scope and limits on slow peers.

uvicorn bounds neither how long a peer may take for its request's head nor how large that head may
be, and does not hand on the certificate. Both are needed here: everybody on the network may
connect, and who a host is comes from nowhere but its certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sib_protocol.messages import Refusal, encode_message
from sib_server.listener.gate import Visitor
from sib_server.pki.peer import NotAHostCertificateError, parse_peer

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from sib_server.listener.gate import ConnectionGate

PEER_CERTIFICATE: Final = "peer_certificate"
"""The key of ``request.state`` under which the client's certificate is: DER bytes, or ``None``."""


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """How patient the server is.

    Attributes:
        handshake_seconds: for TLS.
        handshakes: how many connections may be in it at once.
        crowded_seconds: how old the oldest of them may grow while others wait for its place.
        head_seconds: from a connection's start, or a later request's first byte, to the end of
            that request's head; likewise for the rest of a body after its answer.
        head_bytes: how large the head may be, and what may follow a body's last byte.
        pipelined: how many further requests may wait for the answer to one.
        idle_seconds: a host's connection may rest this long between requests.
        stranger_idle_seconds: likewise, for a connection without a client certificate.
    """

    handshake_seconds: float = 10.0
    handshakes: int = 512
    crowded_seconds: float = 1.0
    head_seconds: float = 10.0
    head_bytes: int = 16 * 1024
    pipelined: int = 8
    idle_seconds: int = 120
    stranger_idle_seconds: int = 5


class CrowdedPipelineError(Exception):
    """More requests came than may wait; stops the parser."""


class SibProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        gate: ConnectionGate,
        limits: PeerLimits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._gate = gate
        self._limits = limits
        self._certificate: bytes | None = None
        self._visitor: Visitor | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._framing_bytes = 0
        self._reading_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Learn who it is and whether there is room."""
        tls = transport.get_extra_info("ssl_object")
        self._certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        super().connection_made(transport)
        visitor = self._who(transport)
        if not self._gate.enter(visitor):
            transport.abort()
            return
        self._visitor = visitor
        self.timeout_keep_alive = (
            self._limits.idle_seconds if visitor.known else self._limits.stranger_idle_seconds
        )
        self._await_head()

    def _who(self, transport: asyncio.Transport) -> Visitor:
        if self._certificate is not None:
            return Visitor(_holder(self._certificate), known=True)
        peer = transport.get_extra_info("peername")
        return Visitor(peer[0] if isinstance(peer, tuple) else "", known=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        visitor, self._visitor = self._visitor, None
        if visitor is not None:
            self._gate.leave(visitor)
        self._stop_head_timer()
        self._stop_rest_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, watching the size of heads and their time."""
        if self.transport.is_closing():
            return
        if self._reading_head:
            if self._head_timer is None:
                self._await_head()
            self._head_bytes += len(data)
            before = self.cycle
            super().data_received(data)
            # One read may carry a whole head and much body: only a head still open is too long.
            unfinished = self._reading_head and self.cycle is before
            if unfinished and self._head_bytes > self._limits.head_bytes:
                self.transport.abort()
            return
        self._framing_bytes += len(data)
        super().data_received(data)
        # Chunk extensions and trailers: uvicorn would keep the latter, however many there are.
        if self._framing_bytes > self._limits.head_bytes:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; between the parts of another answer nothing can be said."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = encode_message(Refusal("malformed", msg))
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)
        )
        self.transport.close()

    def on_message_begin(self) -> None:
        """Put the certificate where the application finds it."""
        super().on_message_begin()
        self.scope["state"][PEER_CERTIFICATE] = self._certificate

    def on_headers_complete(self) -> None:
        """The head is there in time."""
        self._reading_head = False
        self._framing_bytes = 0
        self._stop_head_timer()
        super().on_headers_complete()
        if len(self.pipeline) > self._limits.pipelined:
            # One read carries thousands of small requests, and each waits as some kilobytes.
            self.transport.abort()
            raise CrowdedPipelineError

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body on."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes now is the next request's head."""
        super().on_message_complete()
        self._reading_head = True
        self._head_bytes = 0
        self._stop_rest_timer()

    def on_response_complete(self) -> None:
        """The answer is out; what is left of the request's body has little time."""
        super().on_response_complete()
        answered_early = not self._reading_head and self.cycle.response_complete
        if answered_early and self._rest_timer is None and not self.transport.is_closing():
            self._rest_timer = self.loop.call_later(self._limits.head_seconds, self.transport.abort)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_too_late)

    def _head_too_late(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_rest_timer(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None


def _holder(certificate: bytes) -> str:
    """Whom a certificate of our CA's names: a host may have many, and gets one host's room."""
    try:
        return parse_peer(certificate).host_id
    except NotAHostCertificateError:
        return hashlib.sha256(certificate).hexdigest()


def peer_certificate(scope: Any) -> bytes | None:
    """The client's certificate of a request's scope, DER; ``None`` if it showed none."""
    certificate: bytes | None = scope["state"].get(PEER_CERTIFICATE)
    return certificate
