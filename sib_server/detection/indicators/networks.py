"""A test for networks whose cost hardly grows with their number. Pure.

Falco compares ``fd.snet in (...)`` with one network after the other, a few nanoseconds each. Values
longer than 255 bytes are refused, so one large regular expression is no way out. What is left is a
tree: each level parts the networks into up to :data:`BRANCHES`, a part stands behind a gate for the
prefix that all of its networks share, and a list ends a branch.

A gate asks ``fd.net``, which holds for either end of a connection: that is more than is wanted, the
list behind it asks for the right end, and it costs a quarter of ``fd.snet``, since Falco extracts
nothing for it. Levels are wide, because gates that are asked for every connection stay in the
processor's cache, and each level below is met cold. Two branches a level with an if-then-else, as
in ``(A or R) and not (A and not L)``, ask less often and cost more.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from math import ceil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.indicators.exclusions import IPNetwork

LEAF: Final = 80
"""So many networks are compared one by one at the end of a branch; measured, see the docs."""

BRANCHES: Final = 12
"""A level parts networks into at most so many; measured, see the docs."""

_GATE: Final = "fd.net"


def shared_prefix(networks: Sequence[IPNetwork]) -> IPNetwork:
    """The longest prefix that holds all of the networks.

    Args:
        networks: of one family and in order, at least one.
    """
    first, last = int(networks[0].network_address), int(networks[-1].broadcast_address)
    bits = networks[0].max_prefixlen
    length = min(bits - (first ^ last).bit_length(), networks[0].prefixlen)
    base = first >> (bits - length) << (bits - length)
    if isinstance(networks[0], ipaddress.IPv4Network):
        return ipaddress.IPv4Network((base, length))
    return ipaddress.IPv6Network((base, length))


def _halves(networks: Sequence[IPNetwork]) -> tuple[Sequence[IPNetwork], Sequence[IPNetwork]]:
    """The networks in the lower and the upper half of their prefix; neither is empty."""
    prefix = shared_prefix(networks)
    middle = int(prefix.network_address) + prefix.num_addresses // 2
    at = bisect_left(networks, middle, key=lambda network: int(network.network_address))
    return networks[:at], networks[at:]


def _parts(networks: Sequence[IPNetwork], wanted: int) -> list[Sequence[IPNetwork]]:
    """The networks in so many prefixes: the fullest one is halved until there are."""
    parts = [networks]
    while len(parts) < wanted:
        fullest = max(range(len(parts)), key=lambda at: len(parts[at]))
        parts[fullest : fullest + 1] = _halves(parts[fullest])
    return parts


def network_condition(field: str, networks: Sequence[IPNetwork], leaf: int = LEAF) -> str:
    """A Falco condition that holds where the field's address lies in one of the networks.

    Args:
        field: ``fd.snet`` or ``fd.cnet``.
        networks: of one family, disjoint and in order, at least one.
        leaf: how many networks end a branch, at least one.
    """
    if len(networks) <= leaf:
        return f"{field} in ({', '.join(str(network) for network in networks)})"
    parts = _parts(networks, min(BRANCHES, ceil(len(networks) / leaf)))
    return f"({' or '.join(gated(field, part, leaf) for part in parts)})"


def gated(field: str, networks: Sequence[IPNetwork], leaf: int = LEAF) -> str:
    """:func:`network_condition` behind a gate for what the networks share, if they share a bit."""
    prefix = shared_prefix(networks)
    condition = network_condition(field, networks, leaf)
    return f"({_GATE} = {prefix} and {condition})" if prefix.prefixlen else condition
