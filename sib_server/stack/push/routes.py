"""The push routes: an agent's logs and metrics on their way to the stores on loopback.

Two paths, one method, nothing else. Of the agent's headers only the body's type and
encoding are looked at and none is handed on; of the store's answer come back its status, the
beginning of its text and ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sib_protocol.errors import MalformedMessageError, TooLargeError
from sib_server.errors import RefusedError
from sib_server.events.sinks.http import parse_retry_after, read_bounded
from sib_server.listener.answers import refusal_response
from sib_server.listener.bodies import BodyPace, MemoryBudget, read_body
from sib_server.stack.access import request_headers, tls
from sib_server.stack.push import rewrite
from sib_server.stack.push.rates import HostRates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from starlette.requests import Request

    from sib_protocol.ids import HostId, HostName
    from sib_server.stack.access import StoreAccess
    from sib_server.stack.push.settings import PushSettings

_log: Final = logging.getLogger(__name__)

LOKI_PATH: Final = "/loki/api/v1/push"
METRICS_PATH: Final = "/api/v1/write"

_MAX_ANSWER: Final = 2048
_RETRY_SECONDS: Final = 5
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"


class AuthenticatedHost(Protocol):
    """Who the certificate of a request belongs to."""

    @property
    def host_id(self) -> HostId:
        """The host's id."""

    @property
    def host_name(self) -> HostName:
        """The host's name."""


@dataclass(frozen=True, slots=True)
class _Store:
    """Where pushes of one kind go, and as whom."""

    url: str
    headers: dict[str, str]
    tls: ssl.SSLContext | bool


def _store(url: str | None, access: StoreAccess, tenant: str | None) -> _Store | None:
    return None if url is None else _Store(url, request_headers(access, tenant), tls(access))


@dataclass(frozen=True, slots=True)
class _Upstream:
    """What is handed to a store."""

    store: _Store
    content_type: str
    body: bytes
    headers: dict[str, str]


class _RefusedError(Exception):
    """Carries the answer for a push that goes no further."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after

    def response(self) -> Response:
        headers = (
            {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
        )
        return PlainTextResponse(f"{self}\n", self.status, headers)


class PushRoutes:
    """The two handlers and what they share.

    Args:
        settings: bounds and addresses.
        host_of: the host behind a request; may raise the server's own error for one without a
            valid certificate, which passes through.
        reserved_sources: values of Loki's label ``source`` that belong to events.
        memory: what all pushes in memory may take, bytes.
        clock: seconds, monotonic.

    Attributes:
        budget: how much of it is taken.

    Raises:
        StoreAccessError, FileAccessError: trust or credentials cannot be used.
    """

    def __init__(
        self,
        settings: PushSettings,
        host_of: Callable[[Request], Awaitable[AuthenticatedHost]],
        reserved_sources: Collection[str],
        *,
        memory: int = 128 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._host_of = host_of
        self._reserved = frozenset(reserved_sources)
        self._clock = clock
        self._pace = BodyPace(settings.patience_seconds, settings.min_bytes_per_second)
        self.budget = MemoryBudget(memory)
        self._rates = HostRates(settings.bytes_per_second, settings.burst_bytes)
        self._session: aiohttp.ClientSession | None = None
        logs = None if settings.loki_url is None else settings.loki_url.rstrip("/") + LOKI_PATH
        self._logs = _store(logs, settings.loki_access, settings.loki_tenant)
        self._metrics = _store(
            settings.metrics_url, settings.metrics_access, settings.metrics_tenant
        )

    def routes(self) -> list[Route]:
        """The routes for Starlette: those whose store is configured."""
        found = []
        if self._logs is not None:
            found.append(Route(LOKI_PATH, self.push_logs, methods=["POST"]))
        if self._metrics is not None:
            found.append(Route(METRICS_PATH, self.push_metrics, methods=["POST"]))
        return found

    async def close(self) -> None:
        """Let go of the connections to the stores."""
        if self._session is not None:
            await self._session.close()

    async def push_logs(self, request: Request) -> Response:
        """``POST /loki/api/v1/push``: protobuf under snappy, or JSON, plain or gzip."""
        return await self._handle(request, self._prepare_logs)

    async def push_metrics(self, request: Request) -> Response:
        """``POST /api/v1/write``: remote write 1.0."""
        return await self._handle(request, self._prepare_metrics)

    async def _handle(
        self, request: Request, prepare: Callable[[Request, bytes, HostName], tuple[int, _Upstream]]
    ) -> Response:
        host = await self._host_of(request)
        wait = self._rates.wait(host.host_id, self._clock())
        if wait > 0:
            return _RefusedError(429, "this host pushes more than it may", wait).response()
        try:
            with self.budget.share() as share:
                limit = self._settings.max_body_bytes
                body = await read_body(request, limit, pace=self._pace, share=share)
                self._rates.spend(host.host_id, len(body), self._clock())
                # In a thread: a large push takes some milliseconds that others need not wait for.
                size, upstream = await asyncio.to_thread(prepare, request, body, host.host_name)
                self._rates.spend(host.host_id, max(0, size - len(body)), self._clock())
                # Until the store has answered: one that hangs must not fill the memory.
                share.take(len(upstream.body))
                return await self._forward(upstream)
        except RefusedError as error:
            return refusal_response(error)
        except TooLargeError as error:
            return _RefusedError(413, error.problem).response()
        except MalformedMessageError as error:
            return _RefusedError(400, error.problem).response()
        except _RefusedError as refused:
            return refused.response()

    def _prepare_logs(self, request: Request, body: bytes, host: HostName) -> tuple[int, _Upstream]:
        settings = self._settings
        assert self._logs is not None  # noqa: S101 - the route exists only with it
        kind = _content_type(request)
        encoding = request.headers.get("content-encoding", "").strip().lower()
        limit = settings.max_logs_bytes
        if kind == _JSON and encoding in ("", "gzip"):
            text = rewrite.decompress_gzip(body, limit) if encoding else body
            right = rewrite.rewrite_loki_json(text, host, self._reserved, max_bytes=limit)
            size = len(text)
        elif kind in (_PROTOBUF, "") and encoding in ("", "snappy"):
            right = rewrite.rewrite_loki(body, host, self._reserved, max_bytes=limit)
            size, kind = rewrite.snappy_length(body), _PROTOBUF
        else:
            raise _RefusedError(415, f"cannot read {kind[:80]!r} in encoding {encoding[:80]!r}")
        return size, _Upstream(self._logs, kind, right, {})

    def _prepare_metrics(
        self, request: Request, body: bytes, host: HostName
    ) -> tuple[int, _Upstream]:
        settings = self._settings
        assert self._metrics is not None  # noqa: S101 - the route exists only with it
        kind = request.headers.get("content-type", _PROTOBUF)
        version = request.headers.get("x-prometheus-remote-write-version", "0.1.0")
        if not _is_remote_write_1(kind) or not version.startswith(("0.1.", "1.")):
            raise _RefusedError(415, "only remote write 1.0 (prometheus.WriteRequest) is taken")
        right = rewrite.rewrite_remote_write(body, host, max_bytes=settings.max_metrics_bytes)
        headers = {
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        return rewrite.snappy_length(body), _Upstream(self._metrics, _PROTOBUF, right, headers)

    async def _forward(self, upstream: _Upstream) -> Response:
        store = upstream.store
        headers = {"Content-Type": upstream.content_type, **store.headers, **upstream.headers}
        try:
            async with self._connected().post(
                store.url,
                data=upstream.body,
                headers=headers,
                allow_redirects=False,
                ssl=store.tls,
            ) as answer:
                text = await read_bounded(answer, _MAX_ANSWER)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.warning("the store at %s does not answer: %s", store.url, error)
            raise _RefusedError(503, "the store does not answer", _RETRY_SECONDS) from error
        retry_after = parse_retry_after(answer.headers.get("Retry-After"))
        if answer.status >= 500:
            raise _RefusedError(503, "the store cannot take it now", retry_after or _RETRY_SECONDS)
        if not 200 <= answer.status < 300 and answer.status not in _PASSED_ON:
            # A redirect or a missing route is how the store is set up, not the agent's doing.
            _log.warning("the store at %s answers %s", store.url, answer.status)
            raise _RefusedError(503, "the store is not set up for this", _RETRY_SECONDS)
        if answer.status == 204:
            return Response(status_code=204)
        passed = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
        return PlainTextResponse(text.decode("utf-8", "replace"), answer.status, passed)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
                connector=aiohttp.TCPConnector(limit=self._settings.connections),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


_PASSED_ON: Final = frozenset({400, 413, 422, 429})


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_remote_write_1(content_type: str) -> bool:
    kind, _, parameters = content_type.partition(";")
    proto = parameters.strip()
    return kind.strip().lower() == _PROTOBUF and proto in ("", "proto=prometheus.WriteRequest")
