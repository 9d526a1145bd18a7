"""Stores elsewhere: sinks and push routes over TLS, with a CA of their own and credentials."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from sib_protocol.ids import HostId, HostName
from sib_server.events.sinks.base import SinkUnavailableError
from sib_server.events.sinks.falcosidekick import FalcosidekickSink
from sib_server.events.sinks.loki import LokiSink
from sib_server.events.sinks.settings import FalcosidekickSinkSettings, LokiSinkSettings
from sib_server.stack.access import StoreAccess
from sib_server.stack.grafana_tls import make_certificate
from sib_server.stack.push.routes import LOKI_PATH, PushRoutes
from sib_server.stack.push.settings import PushSettings
from tests.fakes.events import stored

BASIC = "Basic c2liOnMzY3IzdA=="


class TlsStore:
    """Takes a push only from who has the right name, password and client certificate."""

    def __init__(self, directory: Path) -> None:
        self.seen: list[tuple[str, str | None, str | None]] = []
        store = self
        self.pem = directory / "store.pem"
        self.pem.write_bytes(make_certificate(["localhost"]))
        self.client = directory / "client.pem"
        self.client.write_bytes(make_certificate(["sib-server"]))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                given = self.headers.get("Authorization")
                store.seen.append((self.path, given, self.headers.get("X-Scope-OrgID")))
                self.send_response(204 if given == BASIC else 401)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A refused handshake is what some tests want."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem)
        context.load_verify_locations(self.client)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"https://localhost:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TlsStore]:
    made = TlsStore(tmp_path)
    yield made
    made.close()


@pytest.fixture
def access(store: TlsStore, tmp_path: Path) -> StoreAccess:
    password = tmp_path / "password"
    password.write_text("s3cr3t\n")
    return StoreAccess(ca_file=store.pem, username="sib", password_file=password)


def push(url: str, access: StoreAccess) -> Any:
    async def scenario() -> Any:
        sink = LokiSink(LokiSinkSettings(url=url, tenant="t", access=access, timeout_seconds=10))
        try:
            return await sink.deliver([stored(1, time_ns=time.time_ns())])
        finally:
            await sink.close()

    return asyncio.run(scenario())


def test_events_go_to_a_store_that_is_trusted_as_who_may(
    store: TlsStore, access: StoreAccess
) -> None:
    assert push(store.url, access).accepted == 1
    assert store.seen == [("/loki/api/v1/push", BASIC, "t")]


def test_nothing_goes_to_a_store_that_is_not_trusted_or_has_another_name(
    store: TlsStore, access: StoreAccess, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(make_certificate(["localhost"]))
    for url, trusted in (
        (store.url, StoreAccess()),
        (store.url, StoreAccess(ca_file=stranger)),
        (f"https://127.0.0.1:{store.port}", access),
    ):
        with pytest.raises(SinkUnavailableError, match="ertificate"):
            push(url, trusted)
    assert store.seen == [], "not a byte, and no password"


def test_alerts_do_not_go_to_whom_is_not_trusted(store: TlsStore) -> None:
    async def scenario() -> None:
        sink = FalcosidekickSink(FalcosidekickSinkSettings(url=store.url, timeout_seconds=5))
        try:
            await sink.deliver([stored(1, time_ns=time.time_ns())])
        finally:
            await sink.close()

    with pytest.raises(SinkUnavailableError, match="ertificate"):
        asyncio.run(scenario())
    assert store.seen == []


@dataclass(frozen=True)
class Host:
    host_id: HostId
    host_name: HostName


@pytest.mark.parametrize("trusted", [True, False])
def test_an_agents_logs_are_handed_on_as_the_server_and_not_as_the_agent(
    store: TlsStore, access: StoreAccess, trusted: bool
) -> None:
    settings = PushSettings(
        loki_url=store.url, loki_tenant="t", loki_access=access if trusted else StoreAccess()
    )
    line = {"stream": {"job": "x"}, "values": [[str(time.time_ns()), "a line"]]}

    async def host_of(_: Request) -> Host:
        return Host(HostId("id"), HostName("web-1"))

    async def scenario() -> int:
        routes = PushRoutes(settings, host_of, ())
        transport = httpx.ASGITransport(app=Starlette(routes=routes.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="https://sib") as client:
            answer = await client.post(
                LOKI_PATH,
                json={"streams": [line]},
                headers={"Authorization": "Bearer of-the-agent", "X-Scope-OrgID": "another"},
            )
        await routes.close()
        return answer.status_code

    assert asyncio.run(scenario()) == (204 if trusted else 503)
    assert store.seen == ([(LOKI_PATH, BASIC, "t")] if trusted else [])
