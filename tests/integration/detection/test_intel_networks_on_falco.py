"""The shipped test for addresses and networks accepts on the real engine exactly what is listed."""

from __future__ import annotations

import ipaddress
import json
import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sib_server.detection.indicators.aggregate import Aggregate, collapse
from sib_server.detection.indicators.exclusions import IPNetwork
from sib_server.detection.indicators.networks import LEAF
from sib_server.detection.indicators.rules import Shipment, Tier, rule_document
from tests.bench.intel_falco import CONFIGURATION
from tests.support.engine import live_falco

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)

MARK = "sib-intel-networks-test"
CONTROL = f"""
- rule: control
  desc: every connection of the test
  condition: evt.type = connect and proc.cmdline contains {MARK} and fd.sip exists
  output: "%fd.sip"
  priority: NOTICE
"""
# A datagram socket's connect sends nothing; the namespace's every address is its loopback.
CONNECT = f"""
import json, socket, sys, time
"{MARK}"
for place, source in json.load(sys.stdin):
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    free_bind = (socket.IPPROTO_IPV6, 78) if ":" in place else (socket.IPPROTO_IP, 15)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setsockopt(*free_bind, 1)
        client.bind((source, 0))
        client.connect((place, 9))
    time.sleep(0.0005)
"""
NAMESPACE = (
    "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && ip -6 route add local ::/0 dev lo"
    ' && exec "$0" -c "$1"'
)


def some_networks(draw: random.Random, version: int, count: int) -> list[IPNetwork]:
    """Dense here and scattered there: trees of several levels in every shape."""
    bits, low, high = (32, 0x0B, 0xDF) if version == 4 else (128, 0x2400, 0x2BFF)
    top = 8 if version == 4 else 16
    made: set[IPNetwork] = set()
    while len(made) < count:
        length = draw.choice([top + 4, top + 8, bits - 10, bits - 8, bits - 7, bits - 4])
        first = draw.randint(low, high) if draw.random() < 0.5 else high - 1
        base = first << (bits - top) | draw.getrandbits(bits - top) >> draw.choice([0, 8])
        base = base >> (bits - length) << (bits - length)
        made.add(ipaddress.ip_network((base.to_bytes(bits // 8, "big"), length)))
    return collapse(made)


def test_exactly_the_listed_networks_and_addresses_fire(tmp_path: Path) -> None:
    falco = live_falco()
    if shutil.which("ip") is None:
        pytest.skip("ip not found: install iproute2")
    draw = random.Random(11)
    networks = [*some_networks(draw, 4, 12 * LEAF), *some_networks(draw, 6, 3 * LEAF)]
    asked = {ipaddress.ip_address(f"198.18.{n}.1") for n in range(20)}
    for network in draw.sample(networks, 260):
        first, last = network.network_address, network.broadcast_address
        asked |= {first, last, first - 1, last + 1, network[draw.randrange(network.num_addresses)]}
    single = {str(place) for place in draw.sample(sorted(asked, key=str), 40)}
    expected = {
        str(place)
        for place in asked
        if str(place) in single
        or any(place in network for network in networks if network.version == place.version)
    }
    # The near end lies in a listed network at times, which is nothing to report.
    sources = {4: ["127.0.0.1"], 6: ["::1"]}
    for network in draw.sample(networks, 60):
        sources[network.version].append(str(network[1]))
    assert len(expected) > 500
    assert len(asked) - len(expected) > 200
    events, rules = tmp_path / "events.jsonl", tmp_path / "rules.yaml"
    items = Aggregate(tuple(sorted(single)), tuple(networks))
    rules.write_text(CONTROL + rule_document(Shipment({Tier.HIGH: items}, {}, {})))
    (tmp_path / "falco.yaml").write_text(CONFIGURATION.format(events=events, matching="all"))
    log = tmp_path / "falco.log"
    with log.open("wb") as out:
        engine = subprocess.Popen(
            [falco, "-c", tmp_path / "falco.yaml", "-r", rules], stdout=out, stderr=out
        )
    try:
        seen: set[str] = set()
        fired: set[str] = set()
        deadline = time.monotonic() + 150
        # What the engine had no room for, or was not awake for, is done again.
        while missing := sorted({str(place) for place in asked} - seen):
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            assert engine.poll() is None, log.read_text()[-2000:]
            subprocess.run(
                ["unshare", "-n", "sh", "-c", NAMESPACE, sys.executable, CONNECT],
                input=json.dumps(
                    [
                        (place, draw.choice(sources[ipaddress.ip_address(place).version]))
                        for place in missing
                    ]
                ),
                text=True, check=True, timeout=60,
            )  # fmt: skip
            time.sleep(1.5)
            seen, fired = set(), set()
            lines = events.read_bytes().splitlines(keepends=True) if events.exists() else []
            for line in (json.loads(line) for line in lines if line.endswith(b"\n")):
                place = line["output_fields"]["fd.sip"]
                (seen if line["rule"] == "control" else fired).add(place)
        time.sleep(1)
        for raw in events.read_bytes().splitlines():
            line = json.loads(raw)
            if line["rule"] != "control":
                fired.add(line["output_fields"]["fd.sip"])
    finally:
        engine.terminate()
        engine.wait(60)
    assert fired & {str(place) for place in asked} == expected
