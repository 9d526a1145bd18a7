"""What can never be an indicator, however many feeds name it.

Pure decisions. A feed that names a private range, the fleet's own addresses or half of the internet
would turn SIB's own rules against the fleet.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sib_server.detection.indicators.kinds import (
    Kind,
    Observable,
    parse_address,
    parse_domain,
    parse_network,
    recognise,
    url_host,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Exclusion(Enum):
    """Why a value is no indicator."""

    RESERVED = "reserved"
    """Private, loopback, link-local, multicast, documentation or otherwise not of the internet."""

    OWN = "own"
    """An address or name of the server or of a host."""

    ALLOWED = "allowed"
    """On the allow list."""

    TOO_WIDE = "too wide"
    """A network or domain so wide that it says nothing about what is inside."""


_RESERVED: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        # RFC 6890 and its updates, one line each; the ranges of the IANA registries that are not
        # globally reachable, with multicast.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)

_RESERVED_TOPS: Final = frozenset(
    {"local", "localhost", "internal", "test", "example", "invalid", "lan", "home", "arpa", "corp"}
)
_RESERVED_DOMAINS: Final = frozenset({"example.com", "example.net", "example.org"})

_SECOND_LEVELS: Final = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "ltd", "mil", "ne", "net", "nom", "or", "org"}
)
"""Under a country's top-level domain these hold everybody's names, as in ``co.uk``."""


class Ranges:
    """A set of addresses of both families, as sorted ranges; asked by binary search."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._first: dict[int, list[int]] = {4: [], 6: []}
        self._last: dict[int, list[int]] = {4: [], 6: []}
        by_family: dict[int, list[IPNetwork]] = {4: [], 6: []}
        for network in networks:
            by_family[network.version].append(network)
        for family, members in by_family.items():
            for merged in ipaddress.collapse_addresses(members):  # type: ignore[type-var]
                # One family at a time, as collapse_addresses wants; its types cannot say so.
                self._first[family].append(int(merged.network_address))
                self._last[family].append(int(merged.broadcast_address))

    def touches(self, network: IPNetwork) -> bool:
        """Whether an address of the network is in the set."""
        first, last = int(network.network_address), int(network.broadcast_address)
        at = bisect_right(self._first[network.version], last) - 1
        return at >= 0 and self._last[network.version][at] >= first


@dataclass(frozen=True, slots=True)
class WidthLimits:
    """How wide a network may be: the shortest prefixes that are still indicators."""

    ipv4: int = 11
    ipv6: int = 28


def as_network(observable: Observable) -> IPNetwork:
    """An address or a network as a network."""
    return ipaddress.ip_network(observable.value)


def parents(domain: str) -> tuple[str, ...]:
    """A domain and all that it lies below, the longest first."""
    labels = domain.split(".")
    return tuple(".".join(labels[at:]) for at in range(len(labels)))


def _ancestors(names: Iterable[str]) -> frozenset[str]:
    return frozenset(above for name in names for above in parents(name)[1:])


class Exclusions:
    """Decides whether a value can be an indicator.

    Args:
        own: addresses, networks and names of the server and of the hosts.
        allowed: the allow list; a network allows all in it, a domain all below it.
        shared: domains under which strangers share one parent (hosting, short links): never
            indicators themselves, while names below them can be.
        widths: how wide a network may be.
    """

    def __init__(
        self,
        *,
        own: Iterable[str] = (),
        allowed: Iterable[str] = (),
        shared: Iterable[str] = (),
        widths: WidthLimits | None = None,
    ) -> None:
        self._reserved = Ranges(_RESERVED)
        self._widths = widths or WidthLimits()
        self._own, self._own_names, _ = _sort(own)
        self._allowed, self._allowed_names, self._allowed_values = _sort(allowed)
        self._above_own = _ancestors(self._own_names)
        self._above_allowed = _ancestors(self._allowed_names)
        self._shared = frozenset(shared)

    def why(self, observable: Observable) -> Exclusion | None:  # noqa: PLR0911 - a return a reason
        """Why a value is no indicator, or ``None`` where it can be one."""
        if observable in self._allowed_values:
            return Exclusion.ALLOWED
        if observable.kind in (Kind.ADDRESS, Kind.NETWORK):
            return self._why_network(as_network(observable))
        if observable.kind is Kind.DOMAIN:
            return self._why_domain(observable.value)
        if observable.kind is Kind.URL:
            host = url_host(observable)
            if host is None:
                return Exclusion.RESERVED
            if host.kind is Kind.ADDRESS:
                return self._why_network(as_network(host))
            # A URL reaches no name below its host, and one path on a shared host is narrow.
            return self._why_name(parents(host.value))
        return None

    def _why_network(self, network: IPNetwork) -> Exclusion | None:
        # A network that holds a single own or allowed address is refused as a whole: cutting holes
        # into other people's networks would ship a list that no feed ever published.
        if self._own.touches(network):
            return Exclusion.OWN
        if self._allowed.touches(network):
            return Exclusion.ALLOWED
        if network.prefixlen < (self._widths.ipv4 if network.version == 4 else self._widths.ipv6):
            return Exclusion.TOO_WIDE
        return Exclusion.RESERVED if self._reserved.touches(network) else None

    def _why_name(self, line: tuple[str, ...]) -> Exclusion | None:
        if not self._own_names.isdisjoint(line):
            return Exclusion.OWN
        if not self._allowed_names.isdisjoint(line):
            return Exclusion.ALLOWED
        if line[-1] in _RESERVED_TOPS or not _RESERVED_DOMAINS.isdisjoint(line):
            return Exclusion.RESERVED
        return None

    def _why_domain(self, domain: str) -> Exclusion | None:
        why = self._why_name(parents(domain))
        if why is not None:
            return why
        # An own or allowed name below the domain: the suffix match would reach it.
        if domain in self._above_own:
            return Exclusion.OWN
        if domain in self._above_allowed:
            return Exclusion.ALLOWED
        labels = domain.split(".")
        wide = len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LEVELS
        return Exclusion.TOO_WIDE if wide or domain in self._shared else None


def _sort(texts: Iterable[str]) -> tuple[Ranges, frozenset[str], frozenset[Observable]]:
    networks: list[IPNetwork] = []
    names: set[str] = set()
    values: set[Observable] = set()
    for text in texts:
        observable = parse_address(text) or parse_network(text) or recognise(text)
        observable = observable or parse_domain(text)
        if observable is None:
            continue
        if observable.kind in (Kind.ADDRESS, Kind.NETWORK):
            networks.append(as_network(observable))
        elif observable.kind is Kind.DOMAIN:
            names.add(observable.value)
        else:
            values.add(observable)
            if observable.kind is Kind.SHA1:
                values.add(Observable(Kind.CERTIFICATE, observable.value))
    return Ranges(networks), frozenset(names), frozenset(values)
