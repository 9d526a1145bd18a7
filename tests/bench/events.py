"""``scripts/bench events``: from Falco's file to the journal and Loki, throughput and latency."""

from __future__ import annotations

import json
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

from tests.bench import rivals
from tests.bench.load import Percentiles, Writer, cpu_seconds, machine, rss_mib
from tests.support.components import FakeLokiProgram, Loki, Program, RealLoki, get
from tests.support.lab import Agent, Server, event_line

BACKLOG = 60_000


def metrics(server: Server) -> dict[str, float]:
    """The server's own counters, by name and sink."""
    found = {}
    for line in get(f"http://127.0.0.1:{server.metrics_port}/metrics").decode().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def stored(server: Server) -> int:
    return int(metrics(server)["sib_server_events_accepted_total"])


def delivered(server: Server) -> int:
    return int(metrics(server).get('sib_server_sink_delivered_total{sink="loki"}', 0))


def fast_loki(directory: Path) -> RealLoki:
    """A real Loki whose limits do not decide the result."""
    loki = RealLoki(directory)
    path = directory / "loki.yaml"
    config = json.loads(path.read_text())
    config["limits_config"] |= {
        "ingestion_rate_mb": 1000,
        "ingestion_burst_size_mb": 2000,
        "per_stream_rate_limit": "1GB",
        "per_stream_rate_limit_burst": "2GB",
    }
    path.write_text(json.dumps(config))
    return loki


def make_loki(directory: Path, *, real: bool) -> Loki:
    return fast_loki(directory) if real else FakeLokiProgram(directory)


def sink_settings(loki: Loki | None) -> dict[str, Any]:
    return {} if loki is None else {"sinks": {"loki": {"enabled": True, "url": loki.url}}}


def throughput(
    directory: Path, *, agents: int, rate: float, seconds: float, loki: Loki | None
) -> dict[str, Any]:
    """Sustained events a second: stored, and delivered where there is a sink."""
    server = Server(directory / "server", sink_settings(loki))
    server.start()
    token = server.token(uses=agents)
    fleet = [Agent(directory / f"agent-{place}", f"web-{place}") for place in range(agents)]
    for agent in fleet:
        agent.enroll(token)
        agent.start()
    writer = Writer([agent.events_file for agent in fleet], rate=rate, seconds=seconds)
    programs = {"server": server.process.pid if server.process else 0}
    for place, agent in enumerate(fleet):
        assert agent.process is not None
        programs[f"agent-{place}"] = agent.process.pid
    if loki is not None and loki.process is not None:
        programs["loki"] = loki.process.pid
    time.sleep(2)
    before = {name: cpu_seconds(pid) for name, pid in programs.items()}
    writer.process.start()
    count = delivered if loki is not None else stored
    start, samples, most = 0.0, [], 0.0
    while writer.process.is_alive():
        done = count(server)
        writer.credit.value = done + BACKLOG * max(1, min(agents, 4))
        if not start and done:
            start = time.monotonic()
            first = done
        if start:
            samples.append((time.monotonic() - start, done - first))
            most = max(most, sum(rss_mib(pid) for pid in programs.values()))
        time.sleep(0.25)
    end = time.monotonic()
    in_time = count(server) - first
    after = {name: cpu_seconds(pid) for name, pid in programs.items()}
    deadline = time.monotonic() + 120
    while count(server) < writer.written and time.monotonic() < deadline:
        time.sleep(0.25)
    cpu = {
        "server": round(after["server"] - before["server"], 2),
        "agents": round(
            sum(after[name] - before[name] for name in after if name.startswith("agent")), 2
        ),
        "loki": round(after["loki"] - before["loki"], 2) if "loki" in after else None,
    }
    result: dict[str, Any] = {
        "agents": agents,
        "seconds": round(end - start, 1),
        "offered_per_second": rate,
        "written": writer.written,
        "stored": stored(server),
        "delivered": delivered(server) if loki is not None else None,
        "events_per_second": round(in_time / (end - start)),
        "cpu_seconds": cpu,
        "cpu_microseconds_per_event": {
            name: round(value / max(1, in_time) * 1e6, 2)
            for name, value in cpu.items()
            if value is not None
        },
        "peak_rss_mib_all": round(most),
        "server_rss_mib": round(rss_mib(programs["server"])),
        "agent_rss_mib": round(rss_mib(programs["agent-0"]), 1),
    }
    for agent in fleet:
        agent.stop()
    server.stop()
    return result


class Finder(threading.Thread):
    """Takes the newest written event, asks Loki for it until it is there, and takes the next.

    Some tens a second are enough for percentiles, and asking for each one would measure the asking.
    ``written`` maps numbers to the times (seconds since 1970 UTC) at which they were written, in
    order; ``seen`` the followed ones to the times at which a query had them.
    """

    def __init__(self, loki: Loki, selector: str, written: dict[int, float]) -> None:
        super().__init__(daemon=True)
        self._loki = loki
        self._selector = selector
        self._written = written
        self.stop = threading.Event()
        self.seen: dict[int, float] = {}

    def run(self) -> None:
        last = 0
        while not self.stop.is_set():
            number = len(self._written)
            if number == last:
                time.sleep(0.0005)
                continue
            last = number
            written = self._written[number]
            while not self._is_there(number, written) and not self.stop.is_set():
                pass

    def _is_there(self, number: int, written: float) -> bool:
        query = urllib.parse.urlencode(
            {
                "query": f'{self._selector} |= `"lab.n":{number},`',
                "start": int((written - 0.01) * 1e9),
                "end": int((written + 0.05) * 1e9),
                "limit": 1,
            }
        )
        answer = json.loads(get(f"{self._loki.url}/loki/api/v1/query_range?{query}"))
        at = time.time()
        found = bool(answer["data"]["result"])
        if found:
            self.seen[number] = at
        return found


def latency(directory: Path, loki: Loki, *, rate: float, seconds: float) -> dict[str, Any]:
    """A lone path at a steady rate: milliseconds from Falco's write to found in Loki."""
    server = Server(directory / "server", sink_settings(loki))
    server.start()
    agent = Agent(directory / "agent")
    agent.enroll(server.token())
    agent.start()
    agent.append(event_line(0))
    while delivered(server) < 1:
        time.sleep(0.05)
    written: dict[int, float] = {}
    finder = Finder(loki, '{source="syscall"}', written)
    finder.start()
    start = time.monotonic()
    number = 0
    while (elapsed := time.monotonic() - start) < seconds:
        if number >= elapsed * rate:
            time.sleep(0.0005)
            continue
        number += 1
        line = event_line(number)
        written[number] = time.time()
        agent.append(line)
    time.sleep(2)
    finder.stop.set()
    finder.join(10)
    took = [(finder.seen[n] - at) * 1000 for n, at in written.items() if n in finder.seen]
    agent.stop()
    server.stop()
    return {
        "rate": rate,
        "written": len(written),
        "followed": len(took),
        "milliseconds": Percentiles.of(took).rounded(),
    }


def at_rest(directory: Path, seconds: float) -> dict[str, Any]:
    """An enrolled agent with nothing to do: memory, and CPU in percent of one core."""
    server = Server(directory / "server")
    server.start()
    agent = Agent(directory / "agent")
    agent.enroll(server.token())
    agent.start()
    time.sleep(8)
    assert agent.process is not None
    assert server.process is not None
    before, server_before = cpu_seconds(agent.process.pid), cpu_seconds(server.process.pid)
    time.sleep(seconds)
    result = {
        "seconds": seconds,
        "agent_rss_mib": round(rss_mib(agent.process.pid), 1),
        "agent_cpu_percent": round((cpu_seconds(agent.process.pid) - before) / seconds * 100, 3),
        "server_rss_mib": round(rss_mib(server.process.pid), 1),
        "server_cpu_percent": round(
            (cpu_seconds(server.process.pid) - server_before) / seconds * 100, 3
        ),
    }
    agent.stop()
    server.stop()
    return result


def run(parts: list[str], *, seconds: float, rate: float, real: bool) -> dict[str, Any]:
    """All parts that were asked for."""
    result: dict[str, Any] = {"machine": machine(), "loki": "real" if real else "fake"}
    with tempfile.TemporaryDirectory(prefix="sib-bench-") as place:
        root = Path(place)
        programs: list[Program] = []

        def loki(name: str) -> Loki:
            started = make_loki(root / f"loki-{name}", real=real)
            started.start()
            programs.append(started)
            return started

        def end() -> None:
            while programs:
                programs.pop().kill()

        if "rest" in parts:
            result["at_rest"] = at_rest(root / "rest", min(seconds, 60))
        if "journal" in parts:
            result["one_agent_journal"] = throughput(
                root / "journal", agents=1, rate=rate, seconds=seconds, loki=None
            )
        if "one" in parts:
            result["one_agent"] = throughput(
                root / "one", agents=1, rate=rate, seconds=seconds, loki=loki("one")
            )
            end()
        if "fifty" in parts:
            result["fifty_agents"] = throughput(
                root / "fifty", agents=50, rate=rate, seconds=seconds, loki=loki("fifty")
            )
            end()
        if "rivals" in parts and real:
            result["falcosidekick_to_loki"] = rivals.falcosidekick(
                root / "sidekick", loki("sidekick"), count=int(min(20_000, 700 * seconds))
            )
            end()
            written: dict[int, float] = {}
            store = loki("sidekick-latency")
            finder = Finder(store, '{source="syscall"}', written)
            result["falcosidekick_latency"] = rivals.falcosidekick_latency(
                root / "sidekick-latency", store, finder, written, seconds=min(seconds, 15)
            )
            end()
            if rivals.found("alloy", "alloy"):
                result["alloy_to_loki"] = rivals.alloy(
                    root / "alloy", loki("alloy"), rate=rate, seconds=min(seconds, 30)
                )
                end()
        if "latency" in parts:
            result["latency"] = latency(
                root / "latency", loki("latency"), rate=1000, seconds=min(seconds, 20)
            )
            end()
    return result
