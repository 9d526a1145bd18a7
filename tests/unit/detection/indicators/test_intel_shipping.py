from __future__ import annotations

import ipaddress
import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_protocol.events import Priority
from sib_server.detection.indicators.aggregate import SPLIT, aggregate, collapse, fewest_domains
from sib_server.detection.indicators.kinds import Kind, Observable, recognise
from sib_server.detection.indicators.lookups import is_visible, lookup_condition, wire_name
from sib_server.detection.indicators.merge import Indicator, Sighting
from sib_server.detection.indicators.networks import BRANCHES, LEAF, gated
from sib_server.detection.indicators.rules import (
    Shipment,
    Tier,
    choose,
    rule_document,
    without_room,
)
from sib_server.detection.indicators.settings import ShippingSettings
from sib_server.detection.rules.conditions import checks, values
from sib_server.detection.rules.parsing import parse

# A corner of the address space, so that things meet often.
NETWORKS = st.one_of(
    st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
        lambda p: ipaddress.ip_network((0x2D424D00 + (p[0] >> (32 - p[1]) << (32 - p[1])), p[1]))
    ),
    st.tuples(st.integers(0, 255), st.integers(120, 128)).map(
        lambda p: ipaddress.ip_network(
            ((0x2A0E << 112) + (p[0] >> (128 - p[1]) << (128 - p[1])), p[1])
        )
    ),
)


def observable_of(network: Any) -> Observable:
    found = recognise(str(network))
    assert found is not None
    return found


def addresses_of(networks: Any) -> set[Any]:
    return {address for network in networks for address in network}


@given(st.lists(NETWORKS, max_size=25))
def test_aggregation_covers_the_same_addresses_with_the_fewest_items(networks: list[Any]) -> None:
    made = aggregate([observable_of(network) for network in networks])
    covered = addresses_of(made.networks) | {ipaddress.ip_address(a) for a in made.addresses}
    assert covered == addresses_of(networks)
    assert aggregate([observable_of(network) for network in networks[::-1]]) == made
    # Disjoint, and no two could be one.
    assert len(addresses_of(made.networks)) == sum(n.num_addresses for n in made.networks)
    assert not {ipaddress.ip_address(a) for a in made.addresses} & addresses_of(made.networks)
    # The fewest prefixes, of which those of a few single addresses are told as these.
    single = {network.network_address for network in networks if network.num_addresses == 1}
    few = [n for n in collapse(networks) if n.num_addresses <= SPLIT and single.issuperset(n)]
    assert addresses_of(few) == {ipaddress.ip_address(a) for a in made.addresses}
    assert list(made.networks) == [n for n in collapse(networks) if n not in few]
    assert len(made.addresses) + len(made.networks) <= len(set(networks))


def holds(condition: str, server: Any, client: Any) -> bool:
    """Evaluate the Falco condition: its grammar here is also Python's, but for the networks."""

    def test(match: re.Match[str]) -> str:
        networks = [ipaddress.ip_network(item) for item in re.findall(r"[0-9a-f.:]+/\d+", match[0])]
        ends = (server, client) if match[1] == "net" else (server,)
        return str(any(end in network for network in networks for end in ends))

    return bool(eval(re.sub(r"fd\.(s?net) (?:in \([^)]*\)|= \S+?/\d+)", test, condition)))  # noqa: S307 - our own text, as Python


@settings(deadline=None)
@given(
    st.lists(NETWORKS, min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(0, 255),
    st.integers(0, 255),
)
def test_the_tree_says_what_the_list_says(
    networks: list[Any], leaf: int, host: int, other: int
) -> None:
    """Whatever the other end of the connection is: gates hold for either end, lists for one."""
    for version, base in ((4, 0x2D424D00), (6, 0x2A0E << 112)):
        members = [n for n in collapse(networks) if n.version == version]
        if not members:
            continue
        condition = gated("fd.snet", members, leaf)
        client = ipaddress.ip_address(base + other)
        for number in {host, *(int(n.network_address) - base for n in members)}:
            address = ipaddress.ip_address(base + number)
            assert holds(condition, address, client) == any(address in n for n in members)


def dense(number: int) -> int:
    return number << 8


def scattered(number: int) -> int:
    return random.Random(number).randrange(1 << 24) << 8


def clustered(number: int) -> int:
    """Ever fewer in ever larger parts of the space: as uneven as prefixes can be."""
    draw = random.Random(number)
    part = min(int(draw.expovariate(0.35)), 20)
    return ((1 << 31 >> part) | draw.randrange(1 << 31 >> part)) & 0xFFFFFF00


def test_networks_that_share_no_bit_have_no_gate() -> None:
    """Falco is not asked about a prefix of no bits."""
    ends = [ipaddress.IPv4Network("1.0.0.0/24"), ipaddress.IPv4Network("200.0.0.0/24")]
    assert gated("fd.snet", ends) == "fd.snet in (1.0.0.0/24, 200.0.0.0/24)"
    assert "/0" not in gated("fd.snet", ends, leaf=1)


@pytest.mark.parametrize("place", [dense, scattered, clustered])
def test_the_tree_grows_with_the_logarithm_and_can_be_compiled(place: Callable[[int], int]) -> None:
    """As many networks as the settings allow, in every shape: a bundle could not be made else."""
    firsts = sorted({place(number) for number in range(50_000)})
    networks = [ipaddress.IPv4Network((first, 24)) for first in firsts]
    condition = gated("fd.snet", networks)
    depth = deepest = 0
    for sign in condition:
        depth += (sign == "(") - (sign == ")")
        deepest = max(deepest, depth)
    # A level halves one part after the other; what is left of uneven ones are the address's bits.
    levels = math.ceil(math.log(len(networks) / LEAF, BRANCHES)) + 32 // (BRANCHES - 1)
    assert deepest <= 2 * levels + 2
    assert sum(len(values(check)) for check in checks(parse(condition))) >= len(networks)


@given(st.lists(st.sampled_from(["a.net", "b.a.net", "c.b.a.net", "xa.net", "d.org"]), max_size=6))
def test_fewest_domains(domains: list[str]) -> None:
    kept = fewest_domains(domains)
    for domain in domains:
        assert any(domain == k or domain.endswith("." + k) for k in kept)
    assert not any(a.endswith("." + b) for a in kept for b in kept)


def test_names_on_the_wire() -> None:
    assert wire_name("bad.net") == b"\x03bad\x03net\x00"
    assert lookup_condition(["bad.net", "x.org"]).endswith(
        "(evt.buffer bcontains 03626164036e657400 or evt.buffer bcontains 0178036f726700)"
    )
    assert is_visible("a" * 60 + ".net")
    assert not is_visible("a" * 63 + ".net")


def indicator(text: str, confidence: int, kind: Kind | None = None) -> Indicator:
    observable = Observable(kind, text) if kind else observable_of(text)
    return Indicator(observable, (Sighting("f", 1, 1, 1, 9, confidence, ""),))


INDICATORS = [
    indicator("45.66.77.88", 90),
    indicator("45.66.64.0/20", 60),
    indicator("45.66.64.9", 50),
    indicator("45.66.77.89", 95),
    indicator("91.1.1.1", 70),
    indicator("2a0e:1234::/32", 80),
    indicator("2a0f::1", 80),
    indicator("bad.net", 85),
    indicator("www.bad.net", 60),
    indicator("other.org", 60),
    indicator("a" * 63 + ".org", 99),
    indicator("http://bad.net/x", 99),
    indicator("0" * 32, 99),
    indicator("8.8.4.4", 10),
]


def test_what_is_shipped_and_what_is_not() -> None:
    shipment = choose(INDICATORS, ShippingSettings())
    assert shipment.tiers[Tier.HIGH].addresses == ("45.66.77.88", "45.66.77.89", "2a0f::1")
    assert [str(n) for n in shipment.tiers[Tier.HIGH].networks] == ["2a0e:1234::/32"]
    assert shipment.tiers[Tier.MEDIUM].addresses == ("91.1.1.1",)
    assert [str(n) for n in shipment.tiers[Tier.MEDIUM].networks] == ["45.66.64.0/20"]
    # What a surer step covers is not said again.
    assert shipment.tiers[Tier.LOW].addresses == ()
    assert shipment.domains == {Tier.HIGH: ("bad.net",), Tier.MEDIUM: ("other.org",), Tier.LOW: ()}
    assert shipment.left_out == {Kind.ADDRESS: 1, Kind.DOMAIN: 1, Kind.URL: 1, Kind.MD5: 1}
    few = choose(INDICATORS, ShippingSettings(addresses=1, networks=0, domains=0))
    assert few.tiers[Tier.HIGH].addresses == ("45.66.77.89",)
    assert few.left_out[Kind.ADDRESS] == 5
    assert few.left_out[Kind.DOMAIN] == 4


def test_the_document() -> None:
    shipment = choose(INDICATORS, ShippingSettings())
    document = rule_document(shipment)
    assert document == rule_document(choose(INDICATORS[::-1], ShippingSettings()))
    entries = yaml.safe_load(document)
    lists = {entry["list"]: entry["items"] for entry in entries if "list" in entry}
    rules = {entry["rule"]: entry for entry in entries if "rule" in entry}
    assert lists["sib_indicator_addresses_high"] == ["45.66.77.88", "45.66.77.89", "2a0f::1"]
    high = rules["SIB connection to an indicator (high confidence)"]
    assert high["priority"] == Priority.CRITICAL.value.upper()
    assert "(fd.net = 2a0e:1234::/32 and fd.snet in (2a0e:1234::/32))" in high["condition"]
    medium = rules["SIB connection from an indicator (medium confidence)"]
    assert medium["priority"] == "NOTICE"
    assert "fd.cnet" not in medium["condition"]
    assert "SIB lookup of an indicator (high confidence)" in rules
    assert not any("low" in name for name in rules)
    both = yaml.safe_load(rule_document(shipment, inbound_networks=True))
    assert any("fd.cnet in (45.66.64.0/20)" in str(entry.get("condition")) for entry in both)


def test_nothing_to_ship() -> None:
    assert yaml.safe_load(rule_document(choose([], ShippingSettings()))) is None
    only_networks = choose([indicator("45.66.64.0/20", 90)], ShippingSettings())
    rules = yaml.safe_load(rule_document(only_networks))
    assert [entry["rule"] for entry in rules] == [
        "SIB connection to an indicator (high confidence)"
    ]
    assert isinstance(only_networks, Shipment)


@pytest.mark.parametrize(
    ("confidence", "tier"), [(100, "high"), (80, "high"), (79, "medium"), (59, "low")]
)
def test_tiers(confidence: int, tier: str) -> None:
    assert Tier.of(confidence).value == tier


COUNTS = st.dictionaries(
    st.sampled_from([Kind.ADDRESS, Kind.NETWORK, Kind.DOMAIN]),
    st.dictionaries(st.integers(40, 60), st.integers(1, 3), max_size=4),
    max_size=3,
)


@given(COUNTS, st.integers(0, 6), st.integers(0, 6))
def test_what_has_no_room_is_what_is_not_chosen(
    counts: dict[Kind, dict[int, int]], addresses: int, others: int
) -> None:
    limits = ShippingSettings(addresses=addresses, networks=others, domains=others)
    values = {
        Kind.ADDRESS: lambda n: f"45.66.{n}.1",
        Kind.NETWORK: lambda n: f"45.67.{n}.0/24",
        Kind.DOMAIN: lambda n: f"n{n}.net",
    }
    made: list[Indicator] = []
    for kind, found in counts.items():
        confidences = [one for confidence, many in found.items() for one in [confidence] * many]
        made += [
            indicator(values[kind](number), confidence, kind)
            for number, confidence in enumerate(confidences)
        ]
    unsure = {kind: sum(m for c, m in found.items() if c < 50) for kind, found in counts.items()}
    left_out = choose(made, limits).left_out
    told = {one.kind: one for one in without_room(counts, limits)}
    for kind, found in counts.items():
        missing = left_out.get(kind, 0) - unsure[kind]
        assert (told[kind].count if kind in told else 0) == missing
        if missing:
            # Everything surer is shipped, and of the same confidence something is not.
            surer = sum(many for c, many in found.items() if c > told[kind].confidence)
            assert surer <= told[kind].limit
            assert surer + found[told[kind].confidence] > told[kind].limit
