"""Listening on a port and serving an ASGI application there."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from sib_protocol.errors import ExitCode, SibError
from sib_server.listener.gate import ConnectionGate, GateLimits
from sib_server.listener.protocol import PeerLimits, SibProtocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class ListenError(SibError):
    """A port that cannot be listened on."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, address: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {address} port {port}: {reason}",
            "stop what uses the port, or set another address and port in the settings",
        )
        self.address = address
        self.port = port
        self.reason = reason


def server_context(ca: str, certificate: Path, key: Path) -> ssl.SSLContext:
    """The server's TLS 1.3 context: asks for client certificates of one CA.

    Asked for, not demanded: a host that enrolls has none yet. A certificate that is shown must be
    the CA's and in time, or the handshake fails.

    Args:
        ca: PEM text.
        certificate: the server's, PEM file.
        key: the server's, PEM file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=ca)
    context.load_cert_chain(certificate, key)
    # A resumed session would skip the certificate's dates; hosts keep their connections instead.
    context.num_tickets = 0
    return context


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; ``::`` takes IPv4 too.

    Raises:
        ListenError: the port is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(address, port, error.strerror or str(error)) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
        listening.bind((address, port))
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        # A machine without IPv6 still listens on all it has.
        if address == "::" and family is socket.AF_INET6 and _no_ipv6(error):
            return bind("0.0.0.0", port)  # noqa: S104  (what '::' means there)
        raise ListenError(address, port, error.strerror or str(error)) from error
    return listening


def _no_ipv6(error: OSError) -> bool:
    return isinstance(error.errno, int) and error.errno in {97, 99}


class Listener:
    """Serves one application on one socket.

    Args:
        application: ASGI.
        listening: from :func:`bind`.
        tls: the context; ``None`` only for a loopback address.
        gate: the limits on connections.
        limits: the limits on a peer's time.
    """

    def __init__(
        self,
        application: Any,
        listening: socket.socket,
        *,
        tls: ssl.SSLContext | None,
        gate: GateLimits | None = None,
        limits: PeerLimits | None = None,
    ) -> None:
        self.gate = ConnectionGate(gate or GateLimits())
        self._limits = limits or PeerLimits()
        self._socket = listening
        self._tls = tls
        self._config = Config(
            application,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Begin to accept connections."""
        self._config.load()
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._tls is not None:
            options["ssl"] = self._tls
            options["ssl_handshake_timeout"] = self._limits.handshake_seconds
            options["ssl_shutdown_timeout"] = 2.0
        make: Callable[[], SibProtocol] = lambda: SibProtocol(  # noqa: E731
            self._config, self._state, self.gate, self._limits, loop
        )
        self._server = await loop.create_server(make, sock=self._socket, backlog=4096, **options)

    async def stop(self, grace: float = 5.0) -> None:
        """Accept no more, let requests under way end within ``grace`` seconds, close all."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = set(self._state.tasks)
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            for task in late:
                with suppress(asyncio.CancelledError, Exception):
                    await task
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
