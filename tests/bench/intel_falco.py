"""Falco's CPU under threat intelligence: live, and on a recording of the same load.

Connections are made inside a network namespace of its own whose every address is the loopback
interface: nothing leaves the machine.
"""

from __future__ import annotations

import ipaddress
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from pathlib import Path

from sib_server.detection.indicators.aggregate import Aggregate, collapse
from sib_server.detection.indicators.rules import Shipment, Tier, rule_document

ROOT = Path(__file__).resolve().parents[2]
LOW, HIGH = 0x01000000, 0xDF000000


def address(draw: random.Random) -> str:
    return str(ipaddress.IPv4Address(draw.randrange(LOW, HIGH)))


CONFIGURATION = """
engine: {{kind: modern_ebpf, modern_ebpf: {{cpus_for_each_buffer: 2, buf_size_preset: 4}}}}
json_output: true
stdout_output: {{enabled: false}}
syslog_output: {{enabled: false}}
webserver: {{enabled: false}}
file_output: {{enabled: true, keep_alive: true, filename: {events}}}
watch_config_files: false
load_plugins: []
rule_matching: {matching}
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


def make_connections(networks_file: Path, seconds: float, peers: int) -> float:
    """Run :func:`connect` in a network namespace of its own; how many a second there were."""
    command = (
        "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && "
        f"exec {sys.executable} -m tests.bench.intel connect --seconds {seconds} "
        f"--networks {networks_file} --peers {peers}"
    )
    made = subprocess.run(
        ["unshare", "-n", "sh", "-c", command],
        capture_output=True, text=True, check=True, timeout=seconds + 60, cwd=ROOT,
    )  # fmt: skip
    return float(made.stdout)


def unit_environment() -> dict[str, str]:
    """What Falco is told by its unit on a host; it costs less with it, with and without lists."""
    unit = (ROOT / "systemd" / "sib-falco.service").read_text()
    told = " ".join(re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)).split()
    return os.environ | dict(pair.split("=", 1) for pair in told)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_live(
    falco: Path, rules: str, work: Path, *, networks_file: Path, seconds: float, peers: int
) -> dict[str, object]:
    events = work / "events.jsonl"
    events.unlink(missing_ok=True)
    (work / "falco.yaml").write_text(CONFIGURATION.format(events=events, matching="first"))
    (work / "rules.yaml").write_text(rules)
    log = work / "falco.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(falco), "-c", str(work / "falco.yaml"), "-r", str(work / "rules.yaml")],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=unit_environment(),
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
        reached = make_connections(networks_file, seconds, peers)
        spent, passed = cpu_seconds(process.pid) - before, time.monotonic() - start
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


RECORD_ALL = """
- rule: any connection
  desc: every connection of the load, so that all of them are captured
  condition: evt.type = connect and fd.sport = 9
  output: x
  priority: NOTICE
"""


def record(falco: Path, work: Path, networks_file: Path, seconds: float, peers: int) -> Path:
    """Capture the system calls of the load once, so that forms are compared on the very same."""
    (work / "falco.yaml").write_text(
        CONFIGURATION.format(events=work / "recorded.jsonl", matching="first")
    )
    (work / "rules.yaml").write_text(RECORD_ALL)
    options = {
        "capture.enabled": "true",
        "capture.mode": "all_rules",
        "capture.path_prefix": work / "load",
        "capture.default_duration": 60_000,
    }
    asked = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    with (work / "falco.log").open("w") as log:
        process = subprocess.Popen(
            [str(falco), "-c", work / "falco.yaml", "-r", work / "rules.yaml", *asked],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        time.sleep(8)
        make_connections(networks_file, seconds, peers)
        time.sleep(2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    return max(work.glob("load*.scap"), key=lambda path: path.stat().st_size)


def measure_replay(falco: Path, rules: str, work: Path, capture: Path, connections: int) -> float:
    """Microseconds of Falco's CPU a connection: a replay less the start alone."""
    (work / "falco.yaml").write_text(
        CONFIGURATION.format(events=work / "events.jsonl", matching="first")
    )
    (work / "rules.yaml").write_text(rules)

    def spent(*options: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(
            [str(falco), "-c", work / "falco.yaml", "-r", work / "rules.yaml", *options],
            capture_output=True, check=True, timeout=300, env=unit_environment(),
        )  # fmt: skip
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    replay = spent("-o", "engine.kind=replay", "-o", f"engine.replay.capture_file={capture}")
    return (replay - spent("--dry-run")) / connections * 1e6


def needed() -> Path:
    """Falco, where it can watch."""
    falco = Path(os.environ.get("SIB_COMPONENTS", "")) / "falco" / "falco"
    if not falco.exists():
        raise SystemExit("no Falco: set SIB_COMPONENTS to the folder that holds falco/falco")
    if os.geteuid() != 0:
        raise SystemExit("Falco needs root")
    return falco


def make_forms() -> tuple[dict[str, str], tuple[ipaddress.IPv4Network, ...], int]:
    """The rules to compare, the networks in them, and how many addresses."""
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
    return forms, networks, len(ordered)


def chosen_forms(wanted: str) -> tuple[dict[str, str], tuple[ipaddress.IPv4Network, ...], int]:
    """The forms that were asked for, and what is in them."""
    forms, networks, addresses = make_forms()
    chosen = {name for name in wanted.split(",") if name} or set(forms)
    forms = {name: rules for name, rules in forms.items() if name in chosen}
    return forms, networks, addresses


def bench_falco(seconds: float, rounds: int, peers: int, wanted: str) -> dict[str, object]:
    """Falco's CPU while connections are made, a form at a time."""
    falco = needed()
    forms, networks, addresses = chosen_forms(wanted)
    results: dict[str, list[dict[str, object]]] = {name: [] for name in forms}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        networks_file = work / "networks.txt"
        networks_file.write_text("\n".join(str(network) for network in networks))
        # Rounds, not repetitions: what else the machine does hits all forms alike.
        for _ in range(rounds):
            for form, rules in forms.items():
                run = measure_live(
                    falco, rules, work, networks_file=networks_file, seconds=seconds, peers=peers
                )
                results[form].append(run)
    median = {
        form: sorted(float(str(run["us_per_connect"])) for run in runs)[len(runs) // 2]
        for form, runs in results.items()
    }
    return {
        "addresses": addresses,
        "networks": len(networks),
        "peers": peers,
        "median_us_per_connect": median,
        "times_no_list": {
            form: round(value / median["no_list"], 2) for form, value in median.items()
        },
        "runs": results,
    }


def bench_replay(seconds: float, rounds: int, peers: int, wanted: str) -> dict[str, object]:
    """Falco's CPU for the same recorded connections; the least of the rounds counts.

    What else the machine does can only add to it, so the least is nearest to the truth.
    """
    falco = needed()
    forms, networks, addresses = chosen_forms(wanted)
    runs: dict[str, list[float]] = {name: [] for name in forms}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        networks_file = work / "networks.txt"
        networks_file.write_text("\n".join(str(network) for network in networks))
        capture = record(falco, work, networks_file, seconds, peers)
        connections = len((work / "recorded.jsonl").read_bytes().splitlines())
        for _ in range(rounds):
            for form, rules in forms.items():
                spent = measure_replay(falco, rules, work, capture, connections)
                runs[form].append(round(spent, 2))
    least = {form: min(values) for form, values in runs.items()}
    return {
        "addresses": addresses,
        "networks": len(networks),
        "connections": connections,
        "us_per_connect": least,
        "times_no_list": {
            form: round(value / least["no_list"], 2) for form, value in least.items()
        },
        "runs": runs,
    }
