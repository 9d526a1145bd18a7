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

from sib_server.listener.gate import Visitor

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
        head_seconds: from a connection's start, or a later request's first byte, to the end of
            that request's head.
        head_bytes: how large the head may be.
        idle_seconds: a host's connection may rest this long between requests.
        stranger_idle_seconds: likewise, for a connection without a client certificate.
    """

    handshake_seconds: float = 10.0
    head_seconds: float = 10.0
    head_bytes: int = 16 * 1024
    idle_seconds: int = 120
    stranger_idle_seconds: int = 5


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
        self._head_bytes = 0
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
            return Visitor(hashlib.sha256(self._certificate).hexdigest(), known=True)
        peer = transport.get_extra_info("peername")
        return Visitor(peer[0] if isinstance(peer, tuple) else "", known=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        visitor, self._visitor = self._visitor, None
        if visitor is not None:
            self._gate.leave(visitor)
        self._stop_head_timer()
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
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Put the certificate where the application finds it."""
        super().on_message_begin()
        self.scope["state"][PEER_CERTIFICATE] = self._certificate

    def on_headers_complete(self) -> None:
        """The head is there in time."""
        self._reading_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes now is the next request's head."""
        super().on_message_complete()
        self._reading_head = True
        self._head_bytes = 0

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_too_late)

    def _head_too_late(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def peer_certificate(scope: Any) -> bytes | None:
    """The client's certificate of a request's scope, DER; ``None`` if it showed none."""
    certificate: bytes | None = scope["state"].get(PEER_CERTIFICATE)
    return certificate
