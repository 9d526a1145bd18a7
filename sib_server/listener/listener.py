"""Listening on a port and serving an ASGI application there."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from sib_protocol.errors import ExitCode, SibError
from sib_server.listener.gate import ConnectionGate, GateLimits
from sib_server.listener.protocol import PeerLimits, SibProtocol

if TYPE_CHECKING:
    from pathlib import Path

_log: Final = logging.getLogger(__name__)
_BACKLOG: Final = 4096
_NO_DESCRIPTORS_SECONDS: Final = 1.0


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
        self._accepting: asyncio.Task[None] | None = None
        # Oldest first: what has not ended its handshake yet, and since when.
        self._handshakes: dict[socket.socket, float] = {}
        self._freed = asyncio.Event()
        self._greeting: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Begin to accept connections.

        Raises:
            ListenError: another process was quicker.
        """
        self._config.load()
        try:
            self._socket.listen(_BACKLOG)
        except OSError as error:
            address, port = self._socket.getsockname()[:2]
            raise ListenError(address, port, error.strerror or str(error)) from error
        self._accepting = asyncio.create_task(self._accept(), name="accept")

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_place()
            try:
                connection, _peer = await loop.sock_accept(self._socket)
            except OSError as error:
                # Out of descriptors, or a peer that left at once: neither ends the server.
                _log.warning("cannot accept a connection: %s", error.strerror or error)
                await asyncio.sleep(_NO_DESCRIPTORS_SECONDS)
                continue
            self._handshakes[connection] = loop.time()
            task = asyncio.create_task(self._greet(connection))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _wait_for_place(self) -> None:
        """Leave connections to the system's queue while too many are in their handshake.

        Who never ends one gives way to those who wait, the oldest first: hosts need one or two
        round trips, whatever the limit on time allows in quiet hours.
        """
        loop = asyncio.get_running_loop()
        while len(self._handshakes) >= self._limits.handshakes:
            oldest, since = next(iter(self._handshakes.items()))
            wait = since + self._limits.crowded_seconds - loop.time()
            if wait <= 0:
                del self._handshakes[oldest]
                self.gate.refused += 1
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
                return
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._freed.wait()

    async def _greet(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if self._tls is not None:
            options["ssl"] = self._tls
            options["ssl_handshake_timeout"] = self._limits.handshake_seconds
            options["ssl_shutdown_timeout"] = 2.0
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: SibProtocol(self._config, self._state, self.gate, self._limits, loop),
                connection,
                **options,
            )
        except OSError as error:
            # Everybody may try: strangers without TLS, old versions, other CAs' certificates.
            _log.debug("a handshake failed: %s", error)
            connection.close()
        finally:
            self._handshakes.pop(connection, None)
            self._freed.set()

    async def stop(self, grace: float = 5.0) -> None:
        """Accept no more, let requests under way end within ``grace`` seconds, close all."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        self._socket.close()
        for pending in self._handshakes:
            with suppress(OSError):
                pending.shutdown(socket.SHUT_RDWR)
        if self._greeting:
            await asyncio.wait(list(self._greeting), timeout=1.0)
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
