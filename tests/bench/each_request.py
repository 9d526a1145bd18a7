"""``scripts/bench requests``: the server's CPU for one request of each kind.

Some hosts with real identities ask as fast as they are answered, one kind after another. The CPU is
all of the server's, its threads and what happens beside requests included; at this pace reports and
batches share transactions more than they would in a fleet that asks less often.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from sib_protocol.batches import encode_lines
from sib_protocol.messages import WantedBundle
from tests.bench.bundles import Host, Link, Tally
from tests.bench.fleet import enroll_all, health_body, request
from tests.bench.load import Percentiles, cpu_seconds, machine
from tests.support.lab import Server, event_line

HOSTS = 40
Ask = Callable[[int, int], Awaitable[int]]
"""One request of a host's number, the so-manieth of it; returns the status."""


def kinds(
    port: int, links: list[Link], hosts: list[Host], part: str, wanted: WantedBundle
) -> dict[str, Ask]:
    streams = [str(uuid.uuid4()) for _ in links]

    async def fetch(number: int, path: str) -> int:
        return (await links[number].get(path))[0]

    async def send(number: int, path: str, body: bytes) -> int:
        return (await links[number].ask(request(path, body)))[0]

    async def unchanged(number: int, _turn: int) -> int:
        head = f"GET /v1/bundle/wanted HTTP/1.1\r\nHost: sib\r\nIf-None-Match: {wanted.etag()}"
        status, _body = await links[number].ask(f"{head}\r\n\r\n".encode())
        assert status == 304, status
        return 200

    async def handshake(number: int, _turn: int) -> int:
        (await Link.open(port, hosts[number]._tls)).close()
        return 200

    def events(number: int, turn: int) -> Awaitable[int]:
        path = f"/v1/streams/{streams[number]}/events?first={turn}"
        return send(number, path, encode_lines([event_line(number)]))

    return {
        "ca (no look-up)": lambda number, _: fetch(number, "/v1/ca"),
        "health report": lambda number, _: send(number, "/v1/health", health_body(number)),
        "batch of one event": events,
        "which bundle, unchanged": unchanged,
        "bundle metadata": lambda number, _: fetch(number, "/v1/bundle/metadata/timestamp.json"),
        "bundle part": lambda number, _: fetch(number, part),
        "handshake": handshake,
    }


async def measure(server: Server, ask: Ask, seconds: float) -> dict[str, Any]:
    assert server.process is not None
    times: list[float] = []
    end = time.monotonic() + seconds

    async def host(number: int) -> None:
        turn = 0
        while time.monotonic() < end:
            start = time.perf_counter()
            status = await ask(number, turn)
            assert status == 200, status
            times.append((time.perf_counter() - start) * 1000)
            turn += 1

    before, begun, own = cpu_seconds(server.process.pid), time.monotonic(), time.process_time()
    await asyncio.gather(*(host(number) for number in range(HOSTS)))
    cpu, own = cpu_seconds(server.process.pid) - before, time.process_time() - own
    return {
        "server_cpu_milliseconds": round(cpu / len(times) * 1000, 3),
        "hosts_cpu_milliseconds": round(own / len(times) * 1000, 3),
        "requests_a_second": round(len(times) / (time.monotonic() - begun)),
        "milliseconds": Percentiles.of(times).rounded(),
    }


def run(size: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sib-bench-requests-") as place:
        server = Server(Path(place) / "server")
        server.cli("bundle", "init")
        compiled = Path(place) / "compiled"
        (compiled / "rules").mkdir(parents=True)
        text = random.Random(1).randbytes(size).hex()
        (compiled / "rules" / "10-own.yaml").write_text(f"- list: own\n  items: []\n# {text}\n")
        server.cli("bundle", "publish", "--from", str(compiled))
        made = json.loads((server.directory / "bundles" / "releases.json").read_bytes())
        (found,) = made["history"][-1]["parts"]
        server.start()
        identities = enroll_all(server, HOSTS, Path(place) / "identities")

        async def drive() -> dict[str, Any]:
            hosts = [Host(n, server.port, path, Tally()) for n, path in enumerate(identities)]
            links = [await Link.open(server.port, host._tls) for host in hosts]
            part = f"/v1/bundle/targets/{found['sha256']}.{found['target']}"
            wanted = WantedBundle(made["history"][-1]["version"], (found["target"],))
            asks = kinds(server.port, links, hosts, part, wanted)
            return {name: await measure(server, ask, seconds) for name, ask in asks.items()}

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(drive())
        finally:
            server.kill()
        return {"machine": machine(), "hosts": HOSTS, "part_bytes": found["length"], **result}
