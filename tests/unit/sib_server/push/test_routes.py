from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import cramjam
import httpx
import pytest
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request

from sib_protocol.ids import HostId, HostName
from sib_server.stack.push.routes import LOKI_PATH, METRICS_PATH, PushRoutes
from sib_server.stack.push.schema import WriteRequest
from sib_server.stack.push.settings import PushSettings
from tests.fakes.control import cut, serve
from tests.fakes.loki import Push


@dataclass(frozen=True)
class Host:
    host_id: HostId
    host_name: HostName


class Store:
    """Any store behind the routes: remembers what it was sent and answers as told."""

    def __init__(self) -> None:
        self.status = 204
        self.text = ""
        self.half = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.headers: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, dict(request.headers), await request.read()))
        await self.answers.wait()
        if self.half:
            return cut(request, b"HTTP/1.1 204 No Con")
        return web.Response(status=self.status, text=self.text, headers=self.headers)


Client = httpx.AsyncClient


def run(
    scenario: Callable[[Client, Store, PushRoutes], Awaitable[None]],
    memory: int = 2**20,
    **settings: Any,
) -> None:
    async def main() -> None:
        store = Store()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{any:.*}", store.handle)
        runner, port = await serve(app, 0)
        url = f"http://127.0.0.1:{port}"
        given = {"loki_url": url, "metrics_url": f"{url}/api/v1/write", **settings}

        async def host_of(_: Request) -> Host:
            return Host(HostId("id"), HostName("web-1"))

        routes = PushRoutes(PushSettings(**given), host_of, {"syscall"}, memory=memory)
        transport = httpx.ASGITransport(app=Starlette(routes=routes.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="https://sib") as client:
            await scenario(client, store, routes)
        await routes.close()
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 20))


def snappy(raw: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(raw))


def logs() -> bytes:
    push = Push()
    stream = push.streams.add(labels='{host="db-1", source="syscall"}')
    stream.entries.add(line="x")
    return snappy(push.SerializeToString())


def metrics() -> bytes:
    request = WriteRequest()
    request.timeseries.add().labels.add(name=b"__name__", value=b"up")
    return snappy(request.SerializeToString())


def test_logs_go_on_with_the_right_host_and_none_of_the_agent_s_headers() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        headers = {
            "Content-Type": "application/x-protobuf",
            "X-Scope-OrgID": "other",
            "X-Loki-Backfill-Shard": "1",
            "Cookie": "a=b",
            "Authorization": "Basic x",
        }
        answer = await client.post(LOKI_PATH, content=logs(), headers=headers)
        assert (answer.status_code, answer.text) == (204, "")
        ((path, got, body),) = store.seen
        assert path == LOKI_PATH
        assert {name.lower() for name in got} == {
            *("host", "user-agent", "content-type", "content-length", "x-scope-orgid"),
            *("accept", "accept-encoding"),
        }
        assert got["X-Scope-OrgID"] == "sib"
        push = Push.FromString(bytes(cramjam.snappy.decompress_raw(body)))
        assert push.streams[0].labels == '{host="web-1", source="pushed"}'

    run(scenario, loki_tenant="sib")


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_json_logs_go_on_plain(encoding: str) -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        text = json.dumps({"streams": [{"stream": {"a": "b"}, "values": [["1", "x"]]}]}).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if encoding:
            text, headers["Content-Encoding"] = gzip.compress(text), encoding
        assert (await client.post(LOKI_PATH, content=text, headers=headers)).status_code == 204
        ((_path, got, body),) = store.seen
        assert got["Content-Type"] == "application/json"
        assert json.loads(body)["streams"][0]["stream"] == {"a": "b", "host": "web-1"}

    run(scenario)


def test_metrics_go_on_as_remote_write_1() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        store.status = 200
        store.text = "ok"
        headers = {
            "Content-Type": "application/x-protobuf;proto=prometheus.WriteRequest",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
            "Content-Encoding": "snappy",
        }
        answer = await client.post(METRICS_PATH, content=metrics(), headers=headers)
        assert (answer.status_code, answer.text) == (200, "ok")
        ((_path, got, body),) = store.seen
        assert got["Content-Encoding"] == "snappy"
        assert got["X-Scope-OrgID"] == "m"
        request = WriteRequest.FromString(bytes(cramjam.snappy.decompress_raw(body)))
        assert [(label.name, label.value) for label in request.timeseries[0].labels] == [
            (b"__name__", b"up"),
            (b"host", b"web-1"),
        ]

    run(scenario, metrics_tenant="m")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"},
        {"Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "2.0.0"},
        {"Content-Type": "application/json"},
    ],
)
def test_other_remote_writes_are_refused(headers: dict[str, str]) -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        answer = await client.post(METRICS_PATH, content=metrics(), headers=headers)
        assert answer.status_code == 415
        assert not store.seen

    run(scenario)


def test_what_cannot_be_read_or_is_too_much_is_refused_here() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        async def status(content: bytes, **headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await client.post(LOKI_PATH, content=content, headers=named)).status_code

        assert await status(b"\xff") == 400
        assert await status(logs(), content_type="text/plain") == 415
        assert await status(logs(), content_encoding="zstd") == 415
        assert await status(b"x" * 5000) == 413
        assert await status(snappy(b"\x00" * 9000)) == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"x" * 1000

        answer = await client.post(LOKI_PATH, content=chunks())
        assert answer.status_code == 413
        assert not store.seen

    run(scenario, max_body_bytes=4096, max_logs_bytes=8192)


def test_only_two_paths_and_one_method_exist() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        for path in (
            *("/loki/api/v1/query_range", "/loki/api/v1/push/", "/loki/api/v1/push/../delete"),
            *("/loki/api/v1/delete", "/api/v1/query", "/api/v1/write/", "//api/v1/write"),
            *("/loki/api/v1/%2e%2e/v1/push", "/loki/api/v1/push%2f..%2fdelete", "/otlp/v1/logs"),
        ):
            for method in ("GET", "POST", "DELETE"):
                answer = await client.request(method, path, content=logs())
                assert answer.status_code in (307, 404, 405), path
        for path in (LOKI_PATH, METRICS_PATH):
            for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD"):
                assert (await client.request(method, path)).status_code == 405
        assert not store.seen

    run(scenario)


def test_a_store_that_is_not_configured_has_no_route() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        assert (await client.post(METRICS_PATH, content=metrics())).status_code == 404
        assert (await client.post(LOKI_PATH, content=logs())).status_code == 404

    run(scenario, loki_url=None, metrics_url=None)


@pytest.mark.parametrize(
    ("theirs", "ours", "retry"),
    [
        (400, 400, None),
        (429, 429, "9"),
        (422, 422, None),
        (500, 503, "5"),
        (503, 503, "9"),
        (302, 503, "5"),
        (404, 503, "5"),
    ],
)
def test_what_the_store_says_comes_back_in_short(theirs: int, ours: int, retry: str | None) -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        store.status, store.text = theirs, "why " * 5000
        store.headers = {"Set-Cookie": "a=b", "Location": "http://elsewhere/"}
        if retry == "9":
            store.headers["Retry-After"] = "9"
        answer = await client.post(LOKI_PATH, content=logs())
        assert answer.status_code == ours
        assert answer.headers.get("Retry-After") == retry
        assert len(answer.text) <= 2048
        assert not {"set-cookie", "location"} & set(answer.headers)
        assert len(store.seen) == 1

    run(scenario)


def test_a_store_that_does_not_answer_is_503() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        answer = await client.post(METRICS_PATH, content=metrics())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        store.half = True
        assert (await client.post(LOKI_PATH, content=logs())).status_code == 503

    run(scenario, metrics_url="http://127.0.0.1:1")


def test_a_store_that_hangs_does_not_fill_the_memory() -> None:
    async def scenario(client: Client, store: Store, routes: PushRoutes) -> None:
        store.answers.clear()
        text = json.dumps({"streams": [{"stream": {}, "values": [["1", "x" * 5000]]}]}).encode()
        headers = {"Content-Type": "application/json"}
        waiting = asyncio.create_task(client.post(LOKI_PATH, content=text, headers=headers))
        while not store.seen:
            await asyncio.sleep(0.01)
        assert 10_000 < routes.budget.used < 12_000
        refused = await client.post(LOKI_PATH, content=text, headers=headers)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.headers["Connection"] == "close"
        store.answers.set()
        assert (await waiting).status_code == 204
        assert (await client.post(LOKI_PATH, content=text, headers=headers)).status_code == 204
        assert routes.budget.used == 0

    run(scenario, memory=14_000)


def test_a_host_over_its_rate_waits() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        text = json.dumps({"streams": [], "pad": "x" * 9000}).encode()
        headers = {"Content-Type": "application/json"}
        first = await client.post(LOKI_PATH, content=text, headers=headers)
        second = await client.post(LOKI_PATH, content=text, headers=headers)
        assert (first.status_code, second.status_code) == (204, 429)
        assert 1 <= int(second.headers["Retry-After"]) <= 8
        assert len(store.seen) == 1

    run(scenario, bytes_per_second=1024, burst_bytes=2048)


def test_a_push_that_trickles_in_is_cut_off() -> None:
    async def scenario(client: Client, store: Store, _: PushRoutes) -> None:
        async def trickle() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x"
                await asyncio.sleep(0.05)

        answer = await client.post(LOKI_PATH, content=trickle())
        assert answer.status_code == 408
        assert not store.seen

    run(scenario, patience_seconds=0.2, min_bytes_per_second=1000)
