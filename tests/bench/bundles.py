"""``scripts/bench bundles``: a fleet fetches a bundle, while other hosts send events.

Simulated hosts with real identities from one process: each reports its health over a standing
connection, is told of the bundle, waits for its turn, and fetches it as the agent's process does:
over a connection of its own, all of TUF's metadata, then the part, whose digest is checked. TUF
itself is not run here: its cost is the hosts', and these are all on one machine. Some hosts send
events all the time, and the time to their acknowledgement is compared before and during.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import random
import ssl
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from sib_protocol.backoff import Backoff
from sib_protocol.batches import encode_lines
from sib_protocol.messages import (
    BundleHealth,
    HealthAnswer,
    HealthReport,
    SpoolHealth,
    encode_message,
)
from tests.bench.fleet import enroll_all, request
from tests.bench.load import Percentiles, cpu_seconds, keep_still, machine, rss_mib
from tests.support.lab import Server, event_line

SENDERS = 20
EVENTS_A_SECOND = 2.0


@dataclass
class Tally:
    """What all hosts saw together; times in milliseconds."""

    connected: int = 0
    fetched: list[float] = field(default_factory=list)
    fetch_times: list[float] = field(default_factory=list)
    bytes: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Link:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext) -> Link:
        return cls(
            *await asyncio.open_connection(
                "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1", limit=2**21
            )
        )

    async def ask(self, raw: bytes) -> tuple[int, bytes]:
        self._writer.write(raw)
        head = await self._reader.readuntil(b"\r\n\r\n")
        # An answer that has no body need not say so.
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
        return int(head[9:12]), await self._reader.readexactly(length)

    async def get(self, path: str) -> tuple[int, bytes]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: sib\r\n\r\n".encode())

    def close(self) -> None:
        self._writer.transport.abort()


class Host:
    def __init__(self, number: int, port: int, identity: Path, tally: Tally) -> None:
        self._number = number
        self._port = port
        self._tally = tally
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_verify_locations(cafile=str(identity.parent / "ca.pem"))
        self._tls.load_cert_chain(identity)
        self._draw = random.Random(number)
        self._version = 0
        self._fetching: asyncio.Task[None] | None = None

    async def run(self, gate: asyncio.Semaphore) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._session(gate)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._tally.connected -= 1
                self._tally.failures[type(error).__name__] += 1
                backoff = backoff.failed()
                await asyncio.sleep(backoff.wait(self._draw))

    async def _session(self, gate: asyncio.Semaphore) -> None:
        self._tally.connected += 1
        async with gate:
            link = await Link.open(self._port, self._tls)
        interval = 0.0
        try:
            while True:
                spool = SpoolHealth(str(uuid.UUID(int=self._number)), 0, 0, 4096, 2**29, 0.0, 0)
                report = HealthReport(
                    "0.1.0", 1.0, time.time_ns(), 0, spool, bundle=BundleHealth(self._version)
                )
                _status, body = await link.ask(request("/v1/health", encode_message(report)))
                answer = msgspec.json.decode(body, type=HealthAnswer)
                wanted = answer.bundle
                if wanted is not None and wanted.version != self._version and not self._fetching:
                    self._fetching = asyncio.create_task(
                        self._fetch(wanted.version, wanted.targets[0], wanted.wait_seconds)
                    )
                # As the agent spreads it; the first one anywhere in the interval.
                spread = (0.75, 0.93) if interval else (0.0, 0.93)
                interval = answer.interval_seconds
                await asyncio.sleep(interval * self._draw.uniform(*spread))
        finally:
            link.close()

    async def _fetch(self, version: int, target: str, wait: float) -> None:
        await asyncio.sleep(wait)
        while self._version != version:
            try:
                await self._fetch_once(version, target)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._tally.failures[f"fetch {type(error).__name__}"] += 1
                await asyncio.sleep(self._draw.uniform(2.5, 5.0))
        self._fetching = None

    async def _fetch_once(self, version: int, target: str) -> None:
        start = time.perf_counter()
        link = await Link.open(self._port, self._tls)
        try:
            place = "/v1/bundle/metadata"
            await link.get(f"{place}/2.root.json")
            signed = json.loads((await link.get(f"{place}/timestamp.json"))[1])["signed"]
            number = signed["meta"]["snapshot.json"]["version"]
            signed = json.loads((await link.get(f"{place}/{number}.snapshot.json"))[1])["signed"]
            number = signed["meta"]["targets.json"]["version"]
            signed = json.loads((await link.get(f"{place}/{number}.targets.json"))[1])["signed"]
            digest = signed["targets"][target]["hashes"]["sha256"]
            status, content = await link.get(f"/v1/bundle/targets/{digest}.{target}")
        finally:
            link.close()
        if status != 200:
            self._tally.failures[f"status {status}"] += 1
            await asyncio.sleep(self._draw.uniform(2.5, 5.0))
            return
        assert hashlib.sha256(content).hexdigest() == digest
        self._version = version
        self._tally.bytes += len(content)
        self._tally.fetched.append(time.monotonic())
        self._tally.fetch_times.append((time.perf_counter() - start) * 1000)


async def _send(number: int, port: int, identity: Path, times: list[tuple[float, float]]) -> None:
    """A host whose events are timed: (seconds since 1970, milliseconds to the acknowledgement)."""
    host = Host(number, port, identity, Tally())
    stream, following = str(uuid.uuid4()), 0
    link = await Link.open(port, host._tls)
    while True:
        await asyncio.sleep(host._draw.expovariate(EVENTS_A_SECOND))
        body = encode_lines([event_line(number)])
        at, start = time.time(), time.perf_counter()
        status, _ = await link.ask(request(f"/v1/streams/{stream}/events?first={following}", body))
        times.append((at, (time.perf_counter() - start) * 1000))
        assert status == 200
        following += 1


def send_events(port: int, identities: list[Path], stop: Any, answer: Any) -> None:
    """In a process of its own: what is measured must not wait for the simulated hosts."""

    async def run() -> None:
        tasks = [
            asyncio.create_task(_send(number, port, path, times))
            for number, path in enumerate(identities)
        ]
        while not stop.is_set():
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    times: list[tuple[float, float]] = []
    keep_still()
    asyncio.run(run())
    answer.send(times)
    answer.close()


async def drive(server: Server, identities: list[Path], compiled: Path) -> dict[str, Any]:
    tally = Tally()
    hosts = [
        Host(number, server.port, path, tally) for number, path in enumerate(identities[SENDERS:])
    ]
    gate = asyncio.Semaphore(100)
    tasks = [asyncio.create_task(host.run(gate)) for host in hosts]
    start = time.monotonic()
    while tally.connected < len(hosts) or time.monotonic() - start < 30:
        await asyncio.sleep(0.2)
    keep_still()
    # Everybody's first report is over, and reports are spread.
    await asyncio.sleep(30)
    context = multiprocessing.get_context("spawn")
    stop, (receiver, answer) = context.Event(), context.Pipe(duplex=False)
    sender = context.Process(
        target=send_events, args=(server.port, identities[:SENDERS], stop, answer)
    )
    sender.start()
    assert server.process is not None
    await asyncio.sleep(5)
    quiet = cpu_seconds(server.process.pid)
    await asyncio.sleep(35)
    quiet = (cpu_seconds(server.process.pid) - quiet) / 35
    await asyncio.to_thread(server.cli, "bundle", "publish", "--from", str(compiled), "--json")
    # From the moment that it is signed; how long the command takes to start is another matter.
    made = json.loads((server.directory / "bundles" / "releases.json").read_bytes())
    age = time.time() - made["history"][-1]["made_ns"] / 1e9
    cpu, published = cpu_seconds(server.process.pid), time.monotonic() - age
    own, own_since = time.process_time(), time.monotonic()
    deadline = published + 900
    while len(tally.fetched) < len(hosts) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    own = (time.process_time() - own) / (time.monotonic() - own_since)
    spent = time.monotonic() - published
    ended = time.time()
    stop.set()
    timed = await asyncio.to_thread(receiver.recv)
    sender.join()
    begun = ended - spent
    before = Percentiles.of([cost for at, cost in timed if begun - 30 <= at < begun - 5])
    during = Percentiles.of([cost for at, cost in timed if begun <= at < ended])
    times = sorted(at - published for at in tally.fetched)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "hosts": len(hosts),
        "fetched": len(times),
        "bundle_bytes": tally.bytes // max(1, len(times)),
        "seconds": {
            "first": round(times[0], 1),
            "half": round(times[len(times) // 2], 1),
            "all": round(spent, 1),
        },
        "fetch_milliseconds": Percentiles.of(tally.fetch_times).rounded(),
        "event_milliseconds_before": before.rounded(),
        "event_milliseconds_during": during.rounded(),
        "hosts_cpu_percent": round(own * 100, 1),
        "server_cpu_percent_before": round(quiet * 100, 1),
        "server_cpu_percent": round((cpu_seconds(server.process.pid) - cpu) / spent * 100, 1),
        "server_rss_mib": round(rss_mib(server.process.pid), 1),
        "failures": dict(tally.failures),
    }


def run(count: int, size: int, interval: float, pulls: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sib-bench-bundles-") as place:
        server = Server(
            Path(place) / "server",
            {
                "fleet": {"health_interval_seconds": interval},
                "bundles": {"pulls_per_second": pulls},
            },
        )
        server.cli("bundle", "init")
        compiled = Path(place) / "compiled"
        (compiled / "rules").mkdir(parents=True)
        # Half a byte of chance a letter: the archive is about as large as asked for.
        text = random.Random(1).randbytes(size).hex()
        (compiled / "rules" / "10-own.yaml").write_text(f"- list: own\n  items: []\n# {text}\n")
        server.start()
        identities = enroll_all(server, count + SENDERS, Path(place) / "identities")
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(drive(server, identities, compiled))
        finally:
            server.kill()
        return {
            "machine": machine(),
            "health_interval_seconds": interval,
            "pulls_per_second": pulls,
            **result,
        }
