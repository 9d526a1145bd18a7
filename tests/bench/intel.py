"""Measure threat intelligence; prints JSON.

    scripts/bench-intel store            a million indicators: memory, time, lookups a second
    scripts/bench-intel options          the same questions to other ways of keeping them
    scripts/bench-intel falco            Falco's CPU with 100,000 addresses and 10,000 networks

``falco`` needs root, $SIB_COMPONENTS/falco/falco and iproute2. It makes its connections inside
a network namespace of its own whose every address is the loopback interface: nothing leaves the
machine. It takes about a minute and a half a round.
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
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from sib_server.detection.indicators.aggregate import Aggregate, collapse
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.kinds import Kind, Observable
from sib_server.detection.indicators.merge import Sighting
from sib_server.detection.indicators.rules import Shipment, Tier, rule_document
from sib_server.detection.indicators.store import FILE_NAME, update_lock, writing

NOW = 1_795_000_000
LOW, HIGH = 0x01000000, 0xDF000000


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


def address(draw: random.Random) -> str:
    return str(ipaddress.IPv4Address(draw.randrange(LOW, HIGH)))


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
        result = {
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


def dictionary(known: dict[tuple[int, str], object]) -> Callable[[Observable], object]:
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


CONFIGURATION = """
engine: {{kind: modern_ebpf, modern_ebpf: {{cpus_for_each_buffer: 2, buf_size_preset: 4}}}}
json_output: true
stdout_output: {{enabled: false}}
syslog_output: {{enabled: false}}
webserver: {{enabled: false}}
file_output: {{enabled: true, keep_alive: true, filename: {events}}}
watch_config_files: false
load_plugins: []
rule_matching: first
"""

NO_LIST = """
- rule: no list
  desc: the same events, one comparison
  condition: >
    evt.type in (connect, accept, accept4, sendto, sendmsg, sendmmsg, recvfrom, recvmsg, recvmmsg)
    and fd.sip = 1.2.3.4
  output: x
  priority: NOTICE
"""


def networks_of(draw: random.Random, count: int) -> tuple[ipaddress.IPv4Network, ...]:
    made: set[ipaddress.IPv4Network] = set()
    lengths = [16, 18, 19, 20, 21, 22, 22, 23, 24, 24, 24, 24, 25, 26, 27, 28]
    while len(made) < count:
        length = draw.choice(lengths)
        base = draw.randrange(LOW, HIGH) >> (32 - length) << (32 - length)
        made.add(ipaddress.IPv4Network((base, length)))
    return tuple(collapse(made))  # type: ignore[arg-type]


def connect(rate_wanted: int, seconds: float, networks_file: str, peers: int) -> None:
    """Make connections to random addresses that no list holds; run inside the namespace."""
    networks = [ipaddress.ip_network(line) for line in Path(networks_file).read_text().split()]
    firsts = [int(network.network_address) for network in networks]

    def listed(value: int) -> bool:
        at = bisect_right(firsts, value) - 1
        return at >= 0 and int(networks[at].broadcast_address) >= value

    listener = socket.create_server(("0.0.0.0", 9), backlog=4096)  # noqa: S104 - own namespace
    child = os.fork()
    if child == 0:
        while True:
            listener.accept()[0].close()
    draw = random.Random(3)
    values = [
        value for value in (draw.randrange(LOW, HIGH) for _ in range(20_000)) if not listed(value)
    ]
    places = [str(ipaddress.IPv4Address(value)) for value in values[:peers]]
    linger = struct.pack("ii", 1, 0)
    start = time.monotonic()
    made = 0
    while (passed := time.monotonic() - start) < seconds:
        due = int(passed * rate_wanted)
        if made >= due:
            time.sleep(0.001)
        while made < due:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                client.connect((places[made % len(places)], 9))
            made += 1
    print(made / (time.monotonic() - start))
    os.kill(child, signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_falco(
    falco: Path, rules: str, work: Path, *, networks_file: Path, seconds: float, peers: int
) -> dict[str, object]:
    events = work / "events.jsonl"
    events.unlink(missing_ok=True)
    (work / "falco.yaml").write_text(CONFIGURATION.format(events=events))
    (work / "rules.yaml").write_text(rules)
    log = work / "falco.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(falco), "-c", str(work / "falco.yaml"), "-r", str(work / "rules.yaml")],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        # It says nothing until it ends when its output is a file: idle CPU tells that it runs.
        deadline = time.monotonic() + 40
        last = -1.0
        while time.monotonic() < deadline:
            time.sleep(1)
            if process.poll() is not None:
                raise SystemExit(f"falco ended: {log.read_text()[-2000:]}")
            now = cpu_seconds(process.pid)
            if now > 0.15 and now - last < 0.2:
                break
            last = now
        before, start = cpu_seconds(process.pid), time.monotonic()
        command = (
            "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && "
            f"exec {sys.executable} {__file__} connect --seconds {seconds} "
            f"--networks {networks_file} --peers {peers}"
        )
        made = subprocess.run(
            ["unshare", "-n", "sh", "-c", command],
            capture_output=True, text=True, check=True, timeout=seconds + 60,
        )  # fmt: skip
        spent, passed = cpu_seconds(process.pid) - before, time.monotonic() - start
        reached = float(made.stdout)
        status = Path(f"/proc/{process.pid}/status").read_text()
        rss = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    per_connection = spent / (reached * seconds)
    return {
        "connects_per_s": round(reached),
        "cpu_percent": round(100 * spent / passed, 1),
        "us_per_connect": round(per_connection * 1e6, 2),
        "rss_mb": rss,
        "alerts": len(events.read_bytes().splitlines()) if events.exists() else 0,
    }


def bench_falco(seconds: float, rounds: int, peers: int, wanted: str) -> dict[str, object]:
    falco = Path(os.environ.get("SIB_COMPONENTS", "")) / "falco" / "falco"
    if not falco.exists():
        raise SystemExit("no Falco: set SIB_COMPONENTS to the folder that holds falco/falco")
    if os.geteuid() != 0:
        raise SystemExit("Falco needs root")
    draw = random.Random(7)
    addresses: set[str] = set()
    while len(addresses) < 100_000:
        addresses.add(address(draw))
    ordered = sorted(addresses, key=lambda text: int(ipaddress.IPv4Address(text)))
    networks = networks_of(draw, 10_400)
    third = {
        tier: Aggregate(tuple(ordered[at::3]), networks if tier is Tier.HIGH else ())
        for at, tier in enumerate(Tier)
    }
    one = {Tier.HIGH: Aggregate(tuple(ordered), networks)}
    items = ", ".join(str(network) for network in networks)
    forms = {
        "no_list": NO_LIST,
        "addresses_only": rule_document(
            Shipment({Tier.HIGH: Aggregate(tuple(ordered), ())}, {}, {})
        ),
        "linear_networks": NO_LIST.replace("fd.sip = 1.2.3.4", f"fd.snet in ({items})").replace(
            "evt.type in (connect, accept, accept4, sendto, sendmsg, sendmmsg, recvfrom, recvmsg, "
            "recvmmsg)\n   ",
            "evt.type = connect",
        ),
        "shipped": rule_document(Shipment(one, {}, {})),
        "shipped_three_tiers": rule_document(Shipment(third, {}, {})),
        "shipped_inbound_networks": rule_document(Shipment(one, {}, {}), inbound_networks=True),
    }
    chosen = {name for name in wanted.split(",") if name} or set(forms)
    forms = {name: rules for name, rules in forms.items() if name in chosen}
    results: dict[str, list[dict[str, object]]] = {name: [] for name in forms}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        networks_file = work / "networks.txt"
        networks_file.write_text("\n".join(str(network) for network in networks))
        # Rounds, not repetitions: what else the machine does hits all forms alike.
        for _ in range(rounds):
            for form, rules in forms.items():
                run = measure_falco(
                    falco, rules, work, networks_file=networks_file, seconds=seconds, peers=peers
                )
                results[form].append(run)
    median = {
        form: sorted(float(str(run["us_per_connect"])) for run in runs)[len(runs) // 2]
        for form, runs in results.items()
    }
    return {
        "addresses": len(ordered),
        "networks": len(networks),
        "peers": peers,
        "median_us_per_connect": median,
        "times_no_list": {
            form: round(value / median["no_list"], 2) for form, value in median.items()
        },
        "runs": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["store", "options", "falco", "connect"])
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
        "falco": lambda: bench_falco(chosen.seconds, chosen.rounds, chosen.peers, chosen.forms),
    }[chosen.what]
    result = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"machine": machine(), chosen.what: result, "peak_mb": peak}, indent=1))


if __name__ == "__main__":
    main()
