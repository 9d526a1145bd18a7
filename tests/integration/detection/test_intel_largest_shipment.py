"""As many indicators as the settings allow: the compiler takes them, and a host's Falco does."""

from __future__ import annotations

import ipaddress
import random
from typing import TYPE_CHECKING

import pytest

from sib_agent.bundles.engine import Falco
from sib_agent.settings import FalcoSettings
from sib_server.detection.indicators.kinds import Kind, Observable
from sib_server.detection.indicators.merge import Indicator, Sighting
from sib_server.detection.indicators.rules import choose, rule_document
from sib_server.detection.indicators.settings import (
    MOST_ADDRESSES,
    MOST_DOMAINS,
    MOST_NETWORKS,
    ShippingSettings,
)
from sib_server.detection.rules.collect import Origin, SourceFile, collect
from sib_server.detection.rules.findings import Severity
from sib_server.detection.rules.lints import lint
from sib_server.detection.rules.reading import read_items
from tests.support.engine import rule_files
from tests.support.falco_unit import install_real

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)
MOST = ShippingSettings(addresses=MOST_ADDRESSES, networks=MOST_NETWORKS, domains=MOST_DOMAINS)


def indicators() -> Iterator[Indicator]:
    """A tenth more than is shipped, of all confidences, as hard to merge as can be."""
    draw = random.Random(5)

    def one(kind: Kind, value: str) -> Indicator:
        confidence = draw.choice([50, 60, 80])
        return Indicator(Observable(kind, value), (Sighting("f", 1, 1, 1, 9, confidence, ""),))

    places = draw.sample(range(0x0B000000 >> 3, 0xDF000000 >> 3), MOST_ADDRESSES * 11 // 10)
    for place in places:
        yield one(Kind.ADDRESS, str(ipaddress.IPv4Address(place << 3)))
    places = draw.sample(range(0x0B000000 >> 3, 0xDF000000 >> 3), MOST_NETWORKS * 11 // 10)
    for place in places:
        # Four addresses each: were they taken apart, there would be no end of addresses.
        yield one(Kind.NETWORK, f"{ipaddress.IPv4Address((place << 3) + 4)}/30")
    for number in range(MOST_DOMAINS * 11 // 10):
        yield one(Kind.DOMAIN, f"{draw.getrandbits(160):040x}.example-{number}.net")


@pytest.fixture(scope="module")
def document() -> bytes:
    shipment = choose(indicators(), MOST)
    tiers = shipment.tiers.values()
    assert sum(len(items.addresses) for items in tiers) == MOST_ADDRESSES
    assert sum(len(items.networks) for items in tiers) == MOST_NETWORKS
    assert sum(map(len, shipment.domains.values())) == MOST_DOMAINS
    return rule_document(shipment).encode()


def test_the_compiler_takes_the_largest_shipment(document: bytes) -> None:
    items, wrong = read_items("indicators.yaml", document)
    assert wrong == []
    files = [SourceFile("indicators.yaml", Origin.INTEL, "indicators", tuple(items))]
    rules, wrong = collect(files)
    found = [*wrong, *lint(files, rules, (), falco_known=True)]
    assert [one for one in found if one.severity is Severity.ERROR] == []


def test_a_host_takes_the_largest_shipment(document: bytes, tmp_path: Path) -> None:
    """By the agent's own bound of Falco's memory, beside all of SIB's rules."""
    home = tmp_path / "sib-falco"
    install_real(home)
    config = tmp_path / "falco.yaml"
    config.write_text("engine: {kind: nodriver}\nload_plugins: []\nrules_files: []\n")
    rules = tmp_path / "indicators.yaml"
    rules.write_bytes(document)
    falco = Falco(FalcoSettings(home=home, config=config, bundles=tmp_path / "bundles"))
    opinion = falco.validate([*rule_files(), rules])
    assert opinion.looked
    assert opinion.reason is None
