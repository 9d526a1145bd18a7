"""The push routes in front of a real Loki and a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import cramjam
import httpx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from starlette.applications import Starlette
from starlette.requests import Request

from sib_protocol.ids import HostId, HostName
from sib_server.stack.push.routes import LOKI_PATH, METRICS_PATH, PushRoutes
from sib_server.stack.push.settings import PushSettings
from tests.fakes.loki import Push
from tests.support.components import FakeLokiProgram, RealLoki, RealPrometheus, get

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Host:
    host_id: HostId
    host_name: HostName


def through(
    settings: PushSettings, host: str, scenario: Callable[[httpx.AsyncClient], Awaitable[None]]
) -> None:
    async def main() -> None:
        async def host_of(_: Request) -> Host:
            return Host(HostId("id"), HostName(host))

        routes = PushRoutes(settings, host_of, {"syscall", "sib"})
        transport = httpx.ASGITransport(app=Starlette(routes=routes.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="https://sib") as client:
            await scenario(client)
        await routes.close()

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("kind", [FakeLokiProgram, RealLoki], ids=["fake", "real"])
def test_logs_are_stored_under_the_certificate_s_host(
    kind: type[FakeLokiProgram] | type[RealLoki], tmp_path: Path
) -> None:
    loki = kind(tmp_path)
    loki.start()
    host = f"h-{uuid.uuid4()}"

    async def scenario(client: httpx.AsyncClient) -> None:
        now = time.time_ns()
        push = Push()
        stream = push.streams.add(
            labels='{host="db-1", job="auth", source="syscall", odd="\\"\\u00e9\\n"}'
        )
        entry = stream.entries.add(line="from protobuf")
        entry.time.seconds, entry.time.nanos = divmod(now, 10**9)
        entry.metadata.add(name="unit", value="ssh.service")
        body = bytes(cramjam.snappy.compress_raw(push.SerializeToString()))
        answer = await client.post(
            LOKI_PATH, content=body, headers={"Content-Type": "application/x-protobuf"}
        )
        assert answer.status_code == 204, answer.text
        text = {"streams": [{"stream": {"job": "auth"}, "values": [[str(now + 1), "from JSON"]]}]}
        answer = await client.post(LOKI_PATH, json=text)
        assert answer.status_code == 204, answer.text
        text["streams"][0]["values"] = [["1", "old"]]
        answer = await client.post(LOKI_PATH, json=text)
        assert answer.status_code == 400
        assert "timestamp too old" in answer.text

    try:
        through(PushSettings(loki_url=loki.url), host, scenario)
        held = loki.held(f'{{host="{host}"}}')
        assert [line for _, line, _ in held] == ["from protobuf", "from JSON"]
        labels = held[0][2]
        assert labels["source"] == "pushed"
        assert labels["odd"] == '"é\n'
        assert labels["unit"] == "ssh.service"
        assert loki.held('{host="db-1"}') == []
    finally:
        loki.kill()


def _write_class() -> type:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p", syntax="proto3")
    label = file.message_type.add(name="Label")
    label.field.add(name="name", number=1, type=field.TYPE_STRING, label=1)
    label.field.add(name="value", number=2, type=field.TYPE_STRING, label=1)
    sample = file.message_type.add(name="Sample")
    sample.field.add(name="value", number=1, type=field.TYPE_DOUBLE, label=1)
    sample.field.add(name="timestamp", number=2, type=field.TYPE_INT64, label=1)
    series = file.message_type.add(name="Series")
    for name, number in (("Label", 1), ("Sample", 2)):
        series.field.add(
            name=name.lower() + "s",
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".p.{name}",
            label=3,
        )
    write = file.message_type.add(name="Write")
    write.field.add(
        name="timeseries", number=1, type=field.TYPE_MESSAGE, type_name=".p.Series", label=3
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type = message_factory.GetMessageClassesForFiles(["p.proto"], pool)["p.Write"]
    return found


def test_metrics_are_stored_under_the_certificate_s_host(tmp_path: Path) -> None:
    prometheus = RealPrometheus(tmp_path)
    prometheus.start()
    settings = PushSettings(metrics_url=f"{prometheus.url}/api/v1/write")

    async def scenario(client: httpx.AsyncClient) -> None:
        request = _write_class()()
        for name, host in (("with_host", "db-1"), ("without", None)):
            series = request.timeseries.add()
            series.labels.add(name="__name__", value=name)
            if host is not None:
                series.labels.add(name="host", value=host)
            series.labels.add(name="z", value="last")
            series.samples.add(value=4.5, timestamp=time.time_ns() // 10**6)
        answer = await client.post(
            METRICS_PATH,
            content=bytes(cramjam.snappy.compress_raw(request.SerializeToString())),
            headers={
                "Content-Type": "application/x-protobuf",
                "Content-Encoding": "snappy",
                "X-Prometheus-Remote-Write-Version": "0.1.0",
            },
        )
        assert answer.status_code == 204, answer.text

    try:
        through(settings, "web-1", scenario)
        query = urllib.parse.urlencode({"query": '{z="last"}'})
        found = json.loads(get(f"{prometheus.url}/api/v1/query?{query}"))["data"]["result"]
        assert {item["metric"]["__name__"] for item in found} == {"with_host", "without"}
        assert {item["metric"]["host"] for item in found} == {"web-1"}
        assert {item["value"][1] for item in found} == {"4.5"}
    finally:
        prometheus.kill()
