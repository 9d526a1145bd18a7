"""``scripts/bench fleet``: simulated hosts with real identities, from one process."""

from __future__ import annotations

import asyncio
import random
import ssl
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from sib_protocol.backoff import Backoff
from sib_protocol.batches import encode_lines
from sib_protocol.keys import key_pem, make_csr, new_key
from sib_protocol.messages import EnrollRequest, HealthReport, SpoolHealth, encode_message
from sib_protocol.tokens import EnrollmentToken
from tests.bench.load import Percentiles, cpu_seconds, keep_still, machine, rss_mib
from tests.support.lab import Server, event_line

HEALTH_SECONDS = 30.0
EVENT_SECONDS = 60.0


@dataclass
class Tally:
    """What all hosts saw together; times in milliseconds."""

    health: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    handshakes: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    connected: set[int] = field(default_factory=set)


def enroll_all(server: Server, count: int, directory: Path) -> list[Path]:
    """Identities, through the fleet's own service but without HTTP."""
    context = server.context()
    token = EnrollmentToken.parse(server.token(uses=count))
    directory.mkdir()
    (directory / "ca.pem").write_text(context.authority.certificate_pem)
    made = []
    try:
        for number in range(count):
            key = new_key()
            csr = make_csr(key, f"host-{number}")
            answer = context.fleet.enroll(
                EnrollRequest(token.id, token.secret, f"host-{number}", csr), remote="127.0.0.1"
            )
            path = directory / f"{number}.pem"
            path.write_bytes(answer.certificate.encode() + key_pem(key))
            made.append(path)
    finally:
        context.close()
    return made


def request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: sib\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def health_body(number: int) -> bytes:
    spool = SpoolHealth(str(uuid.UUID(int=number)), 0, 0, 4096, 512 << 20, 0.0, 0)
    return encode_message(HealthReport("0.1.0", 1.0, time.time_ns(), 0, spool, kernel="6.1.0"))


class Host:
    """One simulated host: a connection, health reports and an event now and then."""

    def __init__(self, number: int, port: int, identity: Path, tally: Tally) -> None:
        self._number = number
        self._port = port
        self._tally = tally
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_verify_locations(cafile=str(identity.parent / "ca.pem"))
        self._tls.load_cert_chain(identity)
        self._stream = str(uuid.uuid4())
        self._next = 0
        self._draw = random.Random(number)

    async def run(self, gate: asyncio.Semaphore) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._session(gate)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._tally.connected.discard(self._number)
                self._tally.failures[type(error).__name__] += 1
                backoff = backoff.failed()
                if backoff.failures > 6:
                    backoff = Backoff(failures=3)
                await asyncio.sleep(backoff.wait(self._draw))

    async def _session(self, gate: asyncio.Semaphore) -> None:
        async with gate:
            start = time.perf_counter()
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls, server_hostname="127.0.0.1"
            )
            self._tally.handshakes.append((time.perf_counter() - start) * 1000)
        try:
            await self._ask(reader, writer, "/v1/health", health_body(self._number), [])
            self._tally.connected.add(self._number)
            loop = asyncio.get_running_loop()
            health = loop.time() + self._draw.uniform(0, HEALTH_SECONDS)
            event = loop.time() + self._draw.uniform(0, EVENT_SECONDS)
            while True:
                await asyncio.sleep(max(0.0, min(health, event) - loop.time()))
                if loop.time() >= health:
                    health += HEALTH_SECONDS
                    body = health_body(self._number)
                    await self._ask(reader, writer, "/v1/health", body, self._tally.health)
                else:
                    event += EVENT_SECONDS
                    path = f"/v1/streams/{self._stream}/events?first={self._next}"
                    body = encode_lines([event_line(self._number)])
                    await self._ask(reader, writer, path, body, self._tally.events)
                    self._next += 1
        finally:
            writer.transport.abort()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        body: bytes,
        times: list[float],
    ) -> None:
        start = time.perf_counter()
        writer.write(request(path, body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        times.append((time.perf_counter() - start) * 1000)
        self._tally.statuses[int(head[9:12])] += 1


async def _until(condition: Any, seconds: float) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            break
        await asyncio.sleep(0.05)
    return time.monotonic() - start


async def drive(server: Server, identities: list[Path], seconds: float) -> dict[str, Any]:
    tally = Tally()
    count = len(identities)
    hosts = [Host(n, server.port, path, tally) for n, path in enumerate(identities)]
    # A listening queue holds 4096; a fleet does not start in one millisecond either.
    gate = asyncio.Semaphore(200)
    assert server.process is not None
    start_cpu = cpu_seconds(server.process.pid)
    tasks = [asyncio.create_task(host.run(gate)) for host in hosts]
    first = await _until(lambda: len(tally.connected) == count, 300)
    handshake_cpu = cpu_seconds(server.process.pid) - start_cpu
    keep_still()
    tally.health.clear()
    tally.events.clear()
    before, begun = cpu_seconds(server.process.pid), time.monotonic()
    await asyncio.sleep(seconds)
    spent = time.monotonic() - begun
    steady = (cpu_seconds(server.process.pid) - before) / spent * 100
    memory = rss_mib(server.process.pid)
    result: dict[str, Any] = {
        "hosts": count,
        "connected": len(tally.connected),
        "all_connected_seconds": round(first, 2),
        "handshake_cpu_ms_each": round(handshake_cpu / count * 1000, 2),
        "steady_seconds": round(spent, 1),
        "requests": len(tally.health) + len(tally.events),
        "server_cpu_percent": round(steady, 1),
        "server_rss_mib": round(memory, 1),
        "health_milliseconds": Percentiles.of(tally.health).rounded(),
        "event_milliseconds": Percentiles.of(tally.events).rounded(),
    }
    await asyncio.to_thread(server.kill)
    tally.connected.clear()
    again = time.monotonic()
    await asyncio.to_thread(server.start)
    up = time.monotonic() - again
    await _until(lambda: len(tally.connected) == count, 300)
    result["after_restart"] = {
        "server_up_seconds": round(up, 2),
        "all_connected_seconds": round(time.monotonic() - again, 2),
        "connected": len(tally.connected),
    }
    result["statuses"] = {str(status): number for status, number in tally.statuses.items()}
    result["failures"] = dict(tally.failures)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return result


def one_size(directory: Path, count: int, seconds: float) -> dict[str, Any]:
    server = Server(directory)
    server.start()
    empty = rss_mib(server.process.pid) if server.process else 0.0
    identities = enroll_all(server, count, directory / "identities")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(drive(server, identities, seconds))
    finally:
        server.kill()
    grown = (result["server_rss_mib"] - empty) * 1024 / count
    return {**result, "server_rss_kib_per_host": round(grown, 1)}


def run(sizes: list[int], seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sib-fleet-") as place:
        return {
            "machine": machine(),
            "sizes": [one_size(Path(place) / str(size), size, seconds) for size in sizes],
        }
