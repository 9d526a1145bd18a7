"""The routes by which hosts enroll, renew and report."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec.structs import replace
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sib_protocol.limits import MAX_MESSAGE_BYTES
from sib_protocol.messages import (
    EnrollRequest,
    HealthAnswer,
    HealthReport,
    RenewExpired,
    RenewRequest,
    decode_message,
)
from sib_server.errors import RefusedError
from sib_server.fleet.report_writer import ReportWriter
from sib_server.fleet.reports import ReceivedReport
from sib_server.listener.answers import message_response
from sib_server.listener.bodies import read_body
from sib_server.listener.protocol import peer_certificate

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    import msgspec
    from starlette.requests import Request

    from sib_protocol.messages import BundleHealth, CertificateAnswer, WantedBundle
    from sib_server.fleet.enrollment import Fleet
    from sib_server.fleet.policy import AuthenticatedHost

Message = TypeVar("Message", bound="msgspec.Struct")
Result = TypeVar("Result")


class NoCertificateError(RefusedError):
    """A request that needs a client certificate came without one."""

    code = "certificate_required"
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "this needs the certificate of an enrolled host", "enroll the host: sib-agent enroll"
        )


class Bundles(Protocol):
    """What hosts are told of bundles."""

    def root(self) -> str | None:
        """The root by which bundles are verified, JSON; ``None`` if there are no bundles."""
        ...

    def wanted(self, host: AuthenticatedHost, has: BundleHealth | None) -> WantedBundle | None:
        """The bundle that a host shall have."""
        ...


class NoBundles:
    """A server without bundles."""

    def root(self) -> str | None:
        """None."""
        return None

    def wanted(self, _host: AuthenticatedHost, _has: BundleHealth | None) -> WantedBundle | None:
        """None."""
        return None


class FleetRoutes:
    """The handlers and what they share.

    Args:
        fleet: the service.
        ca: the CA's certificate, PEM.
        threads: where the service's blocking calls run.
        health_interval: what hosts are told, seconds.
        bundles: what they are told of those.
    """

    def __init__(
        self,
        fleet: Fleet,
        ca: str,
        threads: Executor,
        *,
        health_interval: float = 30.0,
        bundles: Bundles | None = None,
    ) -> None:
        self._fleet = fleet
        self._ca = ca
        self._threads = threads
        self._reports = ReportWriter(fleet.record_health, threads)
        self._health_interval = health_interval
        self._bundles = bundles or NoBundles()

    def routes(self) -> list[Route]:
        """The routes for Starlette."""
        return [
            Route("/v1/ca", self.ca, methods=["GET"]),
            Route("/v1/enroll", self.enroll, methods=["POST"]),
            Route("/v1/renew", self.renew, methods=["POST"]),
            Route("/v1/renew-expired", self.renew_expired, methods=["POST"]),
            Route("/v1/health", self.health, methods=["POST"]),
        ]

    async def close(self) -> None:
        """Answer the reports that wait."""
        await self._reports.close()

    async def host_of(self, request: Request) -> AuthenticatedHost:
        """Who sends a request: by its certificate, looked up anew each time.

        Raises:
            RefusedError: no certificate, or not one of an enrolled host, or revoked.
        """
        certificate = peer_certificate(request.scope)
        if certificate is None:
            raise NoCertificateError
        known = self._fleet.recognise_at_once(certificate)
        if known is not None:
            return known
        return await self._call(lambda: self._fleet.authenticate(certificate))

    async def ca(self, _request: Request) -> Response:
        """``GET /v1/ca``: anybody may have it; a token's pin says whether it is the right one."""
        return PlainTextResponse(self._ca, media_type="application/x-pem-file")

    async def enroll(self, request: Request) -> Response:
        """``POST /v1/enroll``."""
        message = await _read(request, EnrollRequest)
        remote = _remote(request)
        answer = await self._call(lambda: self._fleet.enroll(message, remote=remote))
        return self._certificate(answer)

    async def renew(self, request: Request) -> Response:
        """``POST /v1/renew``."""
        host = await self.host_of(request)
        message = await _read(request, RenewRequest)
        return self._certificate(await self._call(lambda: self._fleet.renew(host, message)))

    async def renew_expired(self, request: Request) -> Response:
        """``POST /v1/renew-expired``."""
        message = await _read(request, RenewExpired)
        remote = _remote(request)
        answer = await self._call(lambda: self._fleet.renew_expired(message, remote=remote))
        return self._certificate(answer)

    async def health(self, request: Request) -> Response:
        """``POST /v1/health``."""
        host = await self.host_of(request)
        body = await read_body(request, MAX_MESSAGE_BYTES)
        report = decode_message(body, HealthReport)
        now = time.time_ns()
        remote = _remote(request)
        await self._reports.submit(ReceivedReport(host.host_id, report, now, remote), len(body))
        wanted = self._bundles.wanted(host, report.bundle)
        return message_response(HealthAnswer(self._health_interval, now, wanted))

    def _certificate(self, answer: CertificateAnswer) -> Response:
        return message_response(replace(answer, bundle_root=self._bundles.root()))

    async def _call(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


async def _read(request: Request, wanted: type[Message]) -> Message:
    return decode_message(await read_body(request, MAX_MESSAGE_BYTES), wanted)


def _remote(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"
