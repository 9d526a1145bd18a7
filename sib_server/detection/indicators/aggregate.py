"""The fewest items that stand for a set of addresses and networks. Pure and deterministic.

Falco keeps addresses in a hash, where each costs nothing at run time, and compares networks one by
one. So everything is merged into the fewest prefixes, and those that came of a few single addresses
are taken apart again, because four hash entries are cheaper than one comparison. There are never
more items than there were indicators, so that limits of these are limits of those.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_server.detection.indicators.kinds import Kind, Observable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.detection.indicators.exclusions import IPNetwork

SPLIT: Final = 4
"""At most so many neighbours are shipped as addresses rather than as one network."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A set of addresses in the form in which it is shipped.

    Attributes:
        addresses: single ones, IPv4 first, in numeric order.
        networks: disjoint and not mergeable, IPv4 first, in numeric order.
    """

    addresses: tuple[str, ...]
    networks: tuple[IPNetwork, ...]


def collapse(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """The fewest prefixes that cover exactly the same addresses, IPv4 first, in order."""
    four: list[ipaddress.IPv4Network] = []
    six: list[ipaddress.IPv6Network] = []
    for network in networks:
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def aggregate(observables: Iterable[Observable]) -> Aggregate:
    """Merge addresses and networks; other kinds are passed over.

    An address in a network goes, and more than :data:`SPLIT` neighbours become one network.
    """
    given = [
        ipaddress.ip_network(observable.value)
        for observable in observables
        if observable.kind in (Kind.ADDRESS, Kind.NETWORK)
    ]
    single = {network.network_address for network in given if network.num_addresses == 1}
    addresses: list[str] = []
    networks: list[IPNetwork] = []
    for network in collapse(given):
        if network.num_addresses <= SPLIT and single.issuperset(network):
            addresses += [str(address) for address in network]
        else:
            networks.append(network)
    return Aggregate(tuple(addresses), tuple(networks))


def fewest_domains(domains: Iterable[str]) -> tuple[str, ...]:
    """Domains without those below another one of the set, in order."""
    kept: set[str] = set()
    for domain in sorted(set(domains), key=lambda name: (name.count("."), name)):
        labels = domain.split(".")
        if not any(".".join(labels[at:]) in kept for at in range(1, len(labels) - 1)):
            kept.add(domain)
    return tuple(sorted(kept))
