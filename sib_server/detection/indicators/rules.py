"""Indicators as Falco lists and rules. Pure and deterministic.

Hosts are given what Falco can see: connections to and from addresses and networks, and the names in
DNS questions. URLs, file hashes and certificates are not in any system call: they are looked up on
the server in the events that name them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sib_protocol.events import Priority
from sib_server.detection.indicators.aggregate import Aggregate, aggregate, fewest_domains
from sib_server.detection.indicators.exclusions import Ranges, as_network
from sib_server.detection.indicators.kinds import Kind
from sib_server.detection.indicators.lookups import is_visible, lookup_condition
from sib_server.detection.indicators.networks import gated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sib_server.detection.indicators.index import Index
    from sib_server.detection.indicators.kinds import Observable
    from sib_server.detection.indicators.merge import Indicator
    from sib_server.detection.indicators.settings import ShippingSettings


class Tier(Enum):
    """How sure we are, in steps that hosts can tell apart; the value is part of rules' names."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @classmethod
    def of(cls, confidence: int) -> Tier:
        """The step of a confidence of 0 to 100."""
        if confidence >= 80:
            return cls.HIGH
        return cls.MEDIUM if confidence >= 60 else cls.LOW


OUTBOUND: Final = {
    Tier.HIGH: Priority.CRITICAL,
    Tier.MEDIUM: Priority.WARNING,
    Tier.LOW: Priority.NOTICE,
}
"""A host that talks to an indicator may be taken over."""

INBOUND: Final = {
    Tier.HIGH: Priority.WARNING,
    Tier.MEDIUM: Priority.NOTICE,
    Tier.LOW: Priority.INFORMATIONAL,
}
"""A host on the internet is talked to by indicators all day."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What hosts are given, and what they are not.

    Attributes:
        tiers: addresses and networks, by step.
        domains: by step.
        left_out: kind -> how many indicators are looked up on the server only.
    """

    tiers: dict[Tier, Aggregate]
    domains: dict[Tier, tuple[str, ...]]
    left_out: dict[Kind, int]


_SHIPPED: Final = (Kind.ADDRESS, Kind.NETWORK, Kind.DOMAIN)


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Indicators of one kind that are not shipped because there are too many.

    Attributes:
        kind: what kind they are.
        limit: how many are shipped.
        count: how many are not.
        confidence: the highest among those.
    """

    kind: Kind
    limit: int
    count: int
    confidence: int


def not_shipped(index: Index, settings: ShippingSettings) -> tuple[NoRoom, ...]:
    """What hosts are not given although it is sure enough, by the present indicators."""
    return without_room(index.confidences(_SHIPPED, is_visible), settings)


def without_room(
    counts: Mapping[Kind, Mapping[int, int]], settings: ShippingSettings
) -> tuple[NoRoom, ...]:
    """What :func:`choose` leaves out by its limits, from numbers alone.

    Args:
        counts: kind -> confidence -> how many indicators that Falco can see.
        settings: the limits.
    """
    found = []
    for kind, limit in _limits(settings).items():
        room = limit
        missing = surest = 0
        for confidence in sorted(counts.get(kind, {}), reverse=True):
            if confidence < settings.confidence:
                break
            over = max(0, counts[kind][confidence] - room)
            room = max(0, room - counts[kind][confidence])
            if over and not missing:
                surest = confidence
            missing += over
        if missing:
            found.append(NoRoom(kind, limit, missing, surest))
    return tuple(found)


def _limits(settings: ShippingSettings) -> dict[Kind, int]:
    return {
        Kind.ADDRESS: settings.addresses,
        Kind.NETWORK: settings.networks,
        Kind.DOMAIN: settings.domains,
    }


def choose(indicators: Iterable[Indicator], settings: ShippingSettings) -> Shipment:
    """Pick what is shipped: the surest first, up to the limits; the rest is counted.

    An address or domain that a surer step already covers is not repeated in a lower one.
    """
    limits = _limits(settings)
    candidates: dict[Kind, list[tuple[int, Observable]]] = {kind: [] for kind in _SHIPPED}
    left_out = dict.fromkeys(Kind, 0)
    for indicator in indicators:
        kind = indicator.observable.kind
        if (
            kind in candidates
            and indicator.confidence >= settings.confidence
            and (kind is not Kind.DOMAIN or is_visible(indicator.observable.value))
        ):
            candidates[kind].append((indicator.confidence, indicator.observable))
        else:
            left_out[kind] += 1
    chosen: dict[Tier, list[Observable]] = {tier: [] for tier in Tier}
    for kind, found in candidates.items():
        found.sort(key=lambda entry: (-entry[0], entry[1].value))
        left_out[kind] += len(found[limits[kind] :])
        for confidence, observable in found[: limits[kind]]:
            chosen[Tier.of(confidence)].append(observable)
    tiers: dict[Tier, Aggregate] = {}
    domains: dict[Tier, tuple[str, ...]] = {}
    named: list[str] = []
    covered: list[Observable] = []
    for tier in Tier:
        ranges = Ranges(as_network(observable) for observable in covered)
        fresh = [
            observable
            for observable in chosen[tier]
            if observable.kind is Kind.NETWORK
            or (observable.kind is Kind.ADDRESS and not ranges.touches(as_network(observable)))
        ]
        tiers[tier] = aggregate(fresh)
        covered += fresh
        own = [o.value for o in chosen[tier] if o.kind is Kind.DOMAIN]
        fewest = set(fewest_domains([*named, *own]))
        domains[tier] = tuple(name for name in fewest_domains(own) if name in fewest - set(named))
        named += domains[tier]
    return Shipment(tiers, domains, {kind: count for kind, count in left_out.items() if count})


_CONNECT: Final = (
    "(evt.type = connect or (evt.type in (sendto, sendmsg, sendmmsg) "
    "and fd.l4proto = udp and fd.name_changed = true))"
)
_ACCEPT: Final = (
    "(evt.type in (accept, accept4) or (evt.type in (recvfrom, recvmsg, recvmmsg) "
    "and fd.l4proto = udp and fd.name_changed = true))"
)
_OUTPUT: Final = (
    "connection=%fd.name proto=%fd.l4proto process=%proc.name exe=%proc.exepath "
    "command=%proc.cmdline parent=%proc.pname user=%user.name"
)


def _text(value: str) -> str:
    """A YAML double-quoted scalar; JSON's strings are a part of YAML's."""
    return json.dumps(value, ensure_ascii=True)


def _list(name: str, items: Iterable[str]) -> list[str]:
    return [f"- list: {name}", "  items:", *(f"  - {_text(item)}" for item in items), ""]


def address_condition(
    fields: tuple[str, str], tier: Tier, items: Aggregate, *, networks: bool = True
) -> str:
    """What holds where a connection's far end is one of the items; empty without items.

    The hash of addresses comes first, since it costs next to nothing, then networks behind a gate
    for each family, which an address of the other one does not pass.

    Args:
        fields: of the far end, as address and as network, such as ``("fd.sip", "fd.snet")``.
        tier: names the list of addresses.
        items: what to compare with.
        networks: compare with the networks too.
    """
    address_field, network_field = fields
    tests = []
    if items.addresses:
        tests.append(f"{address_field} in ({_list_name(tier)})")
    for family in (4, 6) if networks else ():
        members = [network for network in items.networks if network.version == family]
        if members:
            tests.append(gated(network_field, members))
    return f"({' or '.join(tests)})" if tests else ""


def _list_name(tier: Tier) -> str:
    return f"sib_indicator_addresses_{tier.value}"


def _rule(
    name: str, description: str, *, condition: str, output: str, priority: Priority, tags: str
) -> list[str]:
    return [
        f"- rule: {name}",
        f"  desc: {_text(description)}",
        f"  condition: {_text(condition)}",
        f"  output: {_text(output)}",
        f"  priority: {priority.value.upper()}",
        f"  tags: [{tags}]",
        "",
    ]


def _connection_rules(tier: Tier, items: Aggregate, inbound_networks: bool) -> list[str]:
    lines: list[str] = []
    outbound = address_condition(("fd.sip", "fd.snet"), tier, items)
    if outbound:
        lines += _rule(
            f"SIB connection to an indicator ({tier.value} confidence)",
            "A process talks to an address that threat intelligence names.",
            condition=f"{_CONNECT} and {outbound}",
            output=f"A process talks to an indicator | {_OUTPUT} indicator=%fd.sip",
            priority=OUTBOUND[tier],
            tags=f"sib_intel, sib_intel_{tier.value}, mitre_command_and_control, T1071",
        )
    inbound = address_condition(("fd.cip", "fd.cnet"), tier, items, networks=inbound_networks)
    if inbound:
        lines += _rule(
            f"SIB connection from an indicator ({tier.value} confidence)",
            "An address that threat intelligence names talks to a process.",
            condition=f"{_ACCEPT} and {inbound}",
            output=f"An indicator talks to a process | {_OUTPUT} indicator=%fd.cip",
            priority=INBOUND[tier],
            tags=f"sib_intel, sib_intel_{tier.value}, mitre_initial_access, T1190",
        )
    return lines


def rule_document(shipment: Shipment, *, inbound_networks: bool = False) -> str:
    """The Falco rules file for a shipment; the same shipment gives the same bytes.

    Args:
        shipment: what to look for.
        inbound_networks: compare incoming connections with networks too, not with addresses only.
    """
    lines = ["# Made by SIB from threat intelligence; changes are lost at the next update.", ""]
    for tier, items in shipment.tiers.items():
        if items.addresses:
            lines += _list(_list_name(tier), items.addresses)
    for tier, items in shipment.tiers.items():
        lines += _connection_rules(tier, items, inbound_networks)
    for tier, names in shipment.domains.items():
        if names:
            lines += _rule(
                f"SIB lookup of an indicator ({tier.value} confidence)",
                "A process asks for the address of a domain that threat intelligence names.",
                condition=lookup_condition(names),
                output=f"A process looks up an indicator | {_OUTPUT} question=%evt.buffer",
                priority=OUTBOUND[tier],
                tags=f"sib_intel, sib_intel_{tier.value}, mitre_command_and_control, T1071.004",
            )
    return "\n".join(lines)
