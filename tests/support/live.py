"""The server's own parts in this process, behind real TLS: for tests that look inside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.routing import Route

from sib_protocol.ids import HostName, new_host_id
from sib_protocol.tokens import EnrollmentToken
from sib_server.application import make_application
from sib_server.events.journal import Journal
from sib_server.events.routes import EventRoutes
from sib_server.events.writer import JournalWriter
from sib_server.fleet.enrollment import Fleet
from sib_server.fleet.routes import Bundles, FleetRoutes
from sib_server.listener.gate import GateLimits
from sib_server.listener.listener import Listener, bind, server_context
from sib_server.listener.protocol import PeerLimits
from sib_server.pki.authority import Authority
from sib_server.pki.tokens import TokenStore
from sib_server.state.database import StateDatabase

__all__ = ["HostName", "LiveServer", "new_host_id"]


class LiveServer:
    """Starts when it is made; :meth:`close` ends it."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: PeerLimits | None = None,
        gate: GateLimits | None = None,
        memory: int = 64 * 2**20,
        more_routes: Sequence[Route] = (),
        tls: bool = True,
        bundles: Bundles | None = None,
    ) -> None:
        self.state = StateDatabase(f"sqlite:///{directory / 'state.db'}")
        self.state.migrate()
        self.authority = Authority.create(directory / "pki", "live")
        self.tokens = TokenStore(self.state)
        self.fleet = Fleet(self.state, self.authority)
        self._threads = ThreadPoolExecutor(2)
        self.writer = JournalWriter(Journal.open(directory / "journal.db"))
        fleet = FleetRoutes(
            self.fleet, self.authority.certificate_pem, self._threads, bundles=bundles
        )
        self.events = EventRoutes(self.writer, fleet.host_of, memory=memory)
        certificate = self.authority.server_certificate(["127.0.0.1"])
        context = server_context(
            self.authority.certificate_pem, certificate.certificate_path, certificate.key_path
        )
        routes = [*fleet.routes(), *self.events.routes(), *more_routes]
        self.listener = Listener(
            make_application(routes),
            bind("127.0.0.1", 0),
            tls=context if tls else None,
            gate=gate,
            limits=limits,
        )
        self.port = self.listener.port
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self.listener.start())

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def token(self, *urls: str, pin: str | None = None) -> EnrollmentToken:
        made = self.tokens.create(ttl=timedelta(hours=1))
        return EnrollmentToken(
            urls or (self.url,), pin or self.authority.pin, made.record.id, made.secret
        )

    def close(self) -> None:
        self.call(self.listener.stop(1.0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        self._threads.shutdown()
        self.writer.close()
        self.state.close()
