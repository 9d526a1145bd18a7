"""The other ways of Falco's events to Loki, measured in the same run as SIB's.

Falcosidekick takes each event by HTTP and posts it to Loki; Alloy tails the events file. Neither
keeps what it could not deliver.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.load import Percentiles, Writer, cpu_seconds, rss_mib
from tests.support.components import Loki, Program, component, get
from tests.support.lab import event_line


def found(*parts: str) -> bool:
    """Whether a real program is in the folder that SIB_COMPONENTS names."""
    folder = os.environ.get("SIB_COMPONENTS")
    return folder is not None and Path(folder).joinpath(*parts).is_file()


class SidekickToLoki(Program):
    """A real Falcosidekick whose one output is Loki."""

    def __init__(self, directory: Path, loki: Loki) -> None:
        self._program = component("falcosidekick", "falcosidekick")
        super().__init__(directory)
        config = {
            "listenaddress": "127.0.0.1",
            "listenport": self.port,
            "loki": {"hostport": loki.url, "minimumpriority": "", "format": "json"},
        }
        (directory / "falcosidekick.yaml").write_text(json.dumps(config))

    def command(self) -> list[str]:
        return [str(self._program), "-c", str(self.directory / "falcosidekick.yaml")]

    def is_up(self) -> bool:
        return get(f"{self.url}/ping") == b"pong\n"

    def delivered(self) -> int:
        page = get(f"{self.url}/metrics").decode()
        found = re.search(
            r'^falcosecurity_falcosidekick_outputs_total\{destination="loki",status="ok"\} (\S+)',
            page,
            re.MULTILINE,
        )
        return int(float(found[1])) if found else 0


class AlloyToLoki(Program):
    """A real Alloy that tails one file to Loki."""

    def __init__(self, directory: Path, loki: Loki, events: Path) -> None:
        self._program = component("alloy", "alloy")
        super().__init__(directory)
        (directory / "config.alloy").write_text(
            f"""
local.file_match "events" {{ path_targets = [{{__path__ = "{events}", source = "syscall"}}] }}
loki.source.file "events" {{
  targets = local.file_match.events.targets
  forward_to = [loki.write.store.receiver]
}}
loki.write "store" {{ endpoint {{ url = "{loki.url}/loki/api/v1/push" }} }}
"""
        )

    def command(self) -> list[str]:
        return [
            *(str(self._program), "run", "--disable-reporting"),
            f"--server.http.listen-addr=127.0.0.1:{self.port}",
            f"--storage.path={self.directory / 'data'}",
            str(self.directory / "config.alloy"),
        ]

    def is_up(self) -> bool:
        return b"ready" in get(f"{self.url}/-/ready").lower()

    def delivered(self) -> int:
        page = get(f"{self.url}/metrics").decode()
        return sum(
            int(float(value))
            for value in re.findall(r"^loki_write_sent_entries_total\{[^}]*\} (\S+)", page, re.M)
        )


async def _post_all(url: str, count: int, connections: int) -> None:
    numbers = iter(range(1, count + 1))

    async def worker(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            async with session.post(url, data=event_line(number)) as answer:
                await answer.read()

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(worker(session) for _ in range(connections)))


def _cost(before: float, pid: int) -> dict[str, float]:
    return {
        "cpu_seconds": round(cpu_seconds(pid) - before, 2),
        "rss_mib": round(rss_mib(pid), 1),
    }


def falcosidekick(directory: Path, loki: Loki, *, count: int) -> dict[str, Any]:
    """How fast Falcosidekick brings ``count`` events to Loki."""
    sidekick = SidekickToLoki(directory, loki)
    sidekick.start()
    assert sidekick.process is not None
    before, start = cpu_seconds(sidekick.process.pid), time.monotonic()
    asyncio.run(_post_all(sidekick.url, count, 8))
    accepted = time.monotonic() - start
    deadline = start + 300
    while sidekick.delivered() < count and time.monotonic() < deadline:
        time.sleep(0.1)
    took = time.monotonic() - start
    found = sidekick.delivered()
    result = {
        "events": count,
        "accepted_per_second": round(count / accepted),
        "delivered": found,
        "delivered_per_second": round(found / took),
        **_cost(before, sidekick.process.pid),
    }
    sidekick.kill()
    return result


def falcosidekick_latency(
    directory: Path, loki: Loki, finder: Any, written: dict[int, float], *, seconds: float
) -> dict[str, Any]:
    """Milliseconds from a post to found in Loki, at a rate that Falcosidekick can hold."""
    sidekick = SidekickToLoki(directory, loki)
    sidekick.start()
    rate = 500

    async def send() -> None:
        async with aiohttp.ClientSession() as session:
            start, number = time.monotonic(), 0
            while (elapsed := time.monotonic() - start) < seconds:
                if number >= elapsed * rate:
                    await asyncio.sleep(0.0005)
                    continue
                number += 1
                line = event_line(number)
                written[number] = time.time()
                async with session.post(sidekick.url, data=line) as answer:
                    await answer.read()

    finder.start()
    asyncio.run(send())
    time.sleep(2)
    finder.stop.set()
    finder.join(10)
    sidekick.kill()
    took = [(finder.seen[n] - at) * 1000 for n, at in written.items() if n in finder.seen]
    return {
        "rate": rate,
        "written": len(written),
        "followed": len(took),
        "milliseconds": Percentiles.of(took).rounded(),
    }


def alloy(directory: Path, loki: Loki, *, rate: float, seconds: float) -> dict[str, Any]:
    """How fast Alloy brings what is appended to a file to Loki."""
    directory.mkdir(parents=True, exist_ok=True)
    events = directory / "events.json"
    events.touch()
    tail = AlloyToLoki(directory / "alloy", loki, events)
    tail.start()
    assert tail.process is not None
    time.sleep(2)
    writer = Writer([events], rate=rate, seconds=seconds)
    before = cpu_seconds(tail.process.pid)
    writer.process.start()
    start, first = 0.0, 0
    while writer.process.is_alive():
        done = tail.delivered()
        writer.credit.value = done + 60_000
        if not start and done:
            start, first = time.monotonic(), done
        time.sleep(0.25)
    took = time.monotonic() - start
    result = {
        "delivered_per_second": round((tail.delivered() - first) / took),
        "written": writer.written,
        **_cost(before, tail.process.pid),
    }
    tail.kill()
    return result
