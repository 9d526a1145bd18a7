"""A test for networks whose cost grows with the logarithm of their number. Pure.

Falco compares ``fd.snet in (...)`` with one network after the other, a few nanoseconds each. Values
longer than 255 bytes are refused, so one large regular expression is no way out. What is left is a
tree: a branch stands behind a test for the prefix that all of its networks share, each level parts
them into :data:`BRANCHES`, and a list of some dozens ends a branch. An address outside of every
prefix is done after a few tests. Two branches a level with an if-then-else, as in
``(A or R) and not (A and not L)``, ask less often and cost more: a question is three expressions.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.indicators.exclusions import IPNetwork

LEAF: Final = 48
"""So many networks are compared one by one at the end of a branch; measured, see the docs."""

BRANCHES: Final = 4
"""A level parts networks into so many; two would be more levels, more would be more tests."""


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


def _parts(networks: Sequence[IPNetwork]) -> list[Sequence[IPNetwork]]:
    """The networks in :data:`BRANCHES` prefixes: the fullest one is halved until there are."""
    parts = [networks]
    while len(parts) < BRANCHES and len(max(parts, key=len)) > 1:
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
    branches = (
        f"({field} = {shared_prefix(part)} and {network_condition(field, part, leaf)})"
        for part in _parts(networks)
    )
    return f"({' or '.join(branches)})"
