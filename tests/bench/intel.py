"""Measure threat intelligence; prints JSON.

    scripts/bench-intel store            a million indicators: memory, time, lookups a second
    scripts/bench-intel options          the same questions to other ways of keeping them
    scripts/bench-intel enrich           events a second to the sinks, with a million and without
    scripts/bench-intel falco            Falco's CPU with 100,000 addresses and 10,000 networks
    scripts/bench-intel replay           the same on one recording of the load, less noisy

``falco`` and ``replay`` need root, $SIB_COMPONENTS/falco/falco and iproute2. ``falco`` takes about
a minute and a half a round, ``replay`` a minute.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import platform
import random
import re
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from sib_protocol.events import summarize
from sib_protocol.ids import EventId, HostId, HostName, LineNumber, StreamId
from sib_server.detection.indicators.annotate import Annotator
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.kinds import Kind, Observable
from sib_server.detection.indicators.merge import Sighting
from sib_server.detection.indicators.store import FILE_NAME, update_lock, writing
from sib_server.events.sinks.falcosidekick_payload import outgoing
from sib_server.events.sinks.loki_push import EventEncoder
from sib_server.events.stored import Seq, StoredEvent
from tests.bench.intel_falco import HIGH, LOW, address, bench_falco, bench_replay, connect

NOW = 1_795_000_000


def machine() -> dict[str, object]:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load": os.getloadavg()[0],
    }


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


def a_million(draw: random.Random, count: int) -> dict[Observable, Sighting]:
    sighting = Sighting("bench", NOW, NOW, NOW, NOW + 10**9, 70, "")
    made: dict[Observable, Sighting] = {}
    while len(made) < count * 4 // 10:
        made[Observable(Kind.ADDRESS, address(draw))] = sighting
    while len(made) < count * 8 // 10:
        made[Observable(Kind.DOMAIN, f"{draw.randbytes(7).hex()}.badhost{len(made) % 97}.net")] = (
            sighting
        )
    while len(made) < count - 10_000:
        made[Observable(Kind.SHA256, draw.randbytes(32).hex())] = sighting
    while len(made) < count:
        network = ipaddress.ip_network((draw.randrange(LOW, HIGH) & 0xFFFFFF00, 24))
        made[Observable(Kind.NETWORK, str(network))] = sighting
    return made


def rate(ask: Callable[[Observable], object], asked: list[Observable]) -> float:
    start = time.perf_counter()
    for observable in asked:
        ask(observable)
    return (time.perf_counter() - start) / len(asked) * 1e6


def questions(draw: random.Random, known: list[Observable]) -> dict[str, list[Observable]]:
    return {
        "hit": draw.sample(known, 20_000),
        "miss_address": [Observable(Kind.ADDRESS, address(draw)) for _ in range(20_000)],
        "miss_domain": [
            Observable(Kind.DOMAIN, f"www.{draw.randbytes(6).hex()}.org") for _ in range(20_000)
        ],
    }


def bench_store(count: int) -> dict[str, object]:
    draw = random.Random(1)
    made = a_million(draw, count)
    asked = questions(draw, list(made))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        start = time.perf_counter()
        with update_lock(directory), writing(directory, NOW) as writer:
            writer.merge("bench", made)
        first = time.perf_counter() - start
        start = time.perf_counter()
        with update_lock(directory), writing(directory, NOW) as writer:
            writer.merge("bench", made)
        again = time.perf_counter() - start
        made.clear()
        before = resident()
        start = time.perf_counter()
        index = Index.open(directory, lambda: NOW)
        opened = time.perf_counter() - start
        kept = resident() - before
        lookups = {f"{k}_us": round(rate(index.matches, v), 2) for k, v in asked.items()}
        result: dict[str, object] = {
            "indicators": len(index),
            "file_mb": round((directory / FILE_NAME).stat().st_size / 1e6, 1),
            "write_new_s": round(first, 2),
            "write_again_s": round(again, 2),
            "open_ms": round(opened * 1000, 1),
            "memory_mb": kept,
            **lookups,
        }
        index.close()
    return result


def dictionary(known: Mapping[tuple[int, str], object]) -> Callable[[Observable], object]:
    return lambda o: known.get((o.kind.code, o.value))


def table(connection: sqlite3.Connection) -> Callable[[Observable], object]:
    query = "SELECT 1 FROM t WHERE k = ? AND v = ?"
    return lambda o: connection.execute(query, (o.kind.code, o.value)).fetchone()


def bench_options(count: int) -> dict[str, object]:
    """A dictionary, and SQLite alone, beside what SIB does (see store)."""
    draw = random.Random(1)
    made = a_million(draw, count)
    asked = questions(draw, list(made))
    rows = [(o.kind.code, o.value) for o in made]
    made.clear()
    results: dict[str, object] = {}
    before = resident()
    start = time.perf_counter()
    known = dict.fromkeys(rows, (NOW, NOW, NOW, 70))
    results["dict"] = {
        "build_s": round(time.perf_counter() - start, 2),
        "memory_mb_beside_keys": resident() - before,
        **{f"{k}_us": round(rate(dictionary(known), v), 2) for k, v in asked.items()},
    }
    known.clear()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (k INT, v TEXT, PRIMARY KEY (k, v)) WITHOUT ROWID")
        connection.executemany("INSERT OR IGNORE INTO t VALUES (?, ?)", rows)
        connection.commit()
        connection.close()
        for mapped in (0, 1 << 30):
            connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
            connection.execute(f"PRAGMA mmap_size = {mapped}")
            results[f"sqlite_mmap_{bool(mapped)}".lower()] = {
                f"{k}_us": round(rate(table(connection), v), 2) for k, v in asked.items()
            }
            connection.close()
    return results


def events_of(lines: list[bytes], count: int, met: list[str]) -> list[StoredEvent]:
    """So many events as the journal hands them out; ``met`` are put into one in a hundred."""
    stream = StreamId("11111111-2222-4333-8444-555555555555")
    host = HostId("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
    made = []
    for number in range(count):
        line = lines[number % len(lines)]
        if met and number % 100 == 0:
            event = json.loads(line)
            event["output_fields"]["fd.name"] = f"10.0.0.5:4011->{met[number % len(met)]}:443"
            line = json.dumps(event).encode()
        made.append(
            StoredEvent(
                Seq(number + 1), EventId(stream, LineNumber(number)), host,
                HostName(f"web-{number % 50}"), NOW * 10**9, summarize(line), line,
            )
        )  # fmt: skip
    return made


def bench_enrich(count: int) -> dict[str, object]:
    """Events a second on their way to Loki and Falcosidekick, with and without indicators."""
    draw = random.Random(1)
    recorded = Path(__file__).resolve().parents[2] / "sib_server" / "trial" / "falco-events.jsonl"
    lines = recorded.read_bytes().splitlines()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        empty, full = Path(name) / "empty", Path(name) / "full"
        empty.mkdir()
        full.mkdir()
        made = a_million(draw, count)
        met = draw.sample([o.value for o in made if o.kind is Kind.ADDRESS], 2_000)
        with update_lock(full), writing(full, NOW) as writer:
            writer.merge("bench", made)
        made.clear()
        quiet, busy = events_of(lines, 20_000, []), events_of(lines, 20_000, met)
        encoder = EventEncoder(["syscall"])
        variants = {"none": (empty, quiet), "indicators": (full, quiet), "one_in_100": (full, busy)}
        best = dict.fromkeys(variants, float("inf"))
        for _ in range(3):
            for variant, (directory, events) in variants.items():
                for book in directory.glob("sightings*"):
                    book.unlink()
                annotate = Annotator(directory, "bench", lambda: NOW)
                annotate(events[:1])
                start = time.process_time()
                for at in range(0, len(events), 500):
                    for event in annotate(events[at : at + 500]):
                        encoder.encode(event)
                        outgoing(event)
                best[variant] = min(best[variant], time.process_time() - start)
                results[f"{variant}_met"] = annotate.met
                results[f"{variant}_memory_mb"] = resident()
                annotate.close()
        for variant, spent in best.items():
            results[f"{variant}_events_per_s"] = round(20_000 / spent)
            results[f"{variant}_us_per_event"] = round(spent / 20_000 * 1e6, 1)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "what", choices=["store", "options", "enrich", "falco", "replay", "connect"]
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--networks", default="")
    parser.add_argument("--peers", type=int, default=20_000, help="different far ends")
    parser.add_argument("--forms", default="", help="only these, separated by commas")
    chosen = parser.parse_args()
    if chosen.what == "connect":
        connect(chosen.rate, chosen.seconds, chosen.networks, chosen.peers)
        return
    run = {
        "store": lambda: bench_store(chosen.count),
        "options": lambda: bench_options(chosen.count),
        "enrich": lambda: bench_enrich(chosen.count),
        "replay": lambda: bench_replay(chosen.seconds, chosen.rounds, chosen.peers, chosen.forms),
        "falco": lambda: bench_falco(chosen.seconds, chosen.rounds, chosen.peers, chosen.forms),
    }[chosen.what]
    result = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"machine": machine(), chosen.what: result, "peak_mb": peak}, indent=1))


if __name__ == "__main__":
    main()
