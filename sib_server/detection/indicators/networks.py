"""A test for networks whose cost grows with the logarithm of their number. Pure.

Falco compares ``fd.snet in (...)`` with one network after the other, a few nanoseconds each, while
every further test costs as much as dozens of those. Values longer than 255 bytes are refused, so
one large regular expression is no way out. What is left is a decision tree: a test asks for the
prefix that holds about half of the networks, and the answer leads to one half. Conditions have no
if-then-else, but ``(A or R) and not (A and not L)`` asks once where neither ``A`` nor ``R`` holds,
and twice where ``A`` does. Networks stand close together, so the prefix around half of them is the
smaller part of all addresses, and most connections lie outside. A list of some dozens ends a
branch.

Of the prefixes on the way down the heavier side, one holds between a third and two thirds: a prefix
with more than two thirds has a half with more than one. So the tree is never higher than
log(networks / leaf) to the base 1.5, however the networks lie, and each level is two brackets.
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


def _network(base: int, length: int, like: IPNetwork) -> IPNetwork:
    if isinstance(like, ipaddress.IPv4Network):
        return ipaddress.IPv4Network((base, length))
    return ipaddress.IPv6Network((base, length))


def halving_prefix(networks: Sequence[IPNetwork]) -> IPNetwork:
    """The prefix that holds the share of the networks that is nearest to a half.

    Args:
        networks: of one family, disjoint and in order, at least two.
    """
    like = networks[0]
    bits = like.max_prefixlen
    firsts = [int(network.network_address) for network in networks]
    best: tuple[int, int, int] | None = None
    base, low, high = 0, 0, len(networks)
    # Walk down the heavier side until it holds less than half: the best prefix is on that path.
    for length in range(1, bits + 1):
        middle = base + (1 << (bits - length))
        at = bisect_left(firsts, middle, low, high)
        if at - low >= high - at:
            high = at
        else:
            base, low = middle, at
        distance = abs(2 * (high - low) - len(networks))
        if high - low < len(networks) and (best is None or distance < best[0]):
            best = (distance, base, length)
        if 2 * (high - low) <= len(networks):
            break
    if best is None:  # pragma: no cover - two disjoint networks always part
        raise AssertionError("no prefix parts the networks")
    return _network(best[1], best[2], like)


def _branch(field: str, networks: Sequence[IPNetwork], leaf: int) -> str:
    if len(networks) <= leaf:
        items = ", ".join(str(network) for network in networks)
        return f"{field} in ({items})"
    prefix = halving_prefix(networks)
    first, last = int(prefix.network_address), int(prefix.broadcast_address)
    inside = [n for n in networks if first <= int(n.network_address) <= last]
    outside = [n for n in networks if not first <= int(n.network_address) <= last]
    ask = f"{field} = {prefix}"
    yes, no = _branch(field, inside, leaf), _branch(field, outside, leaf)
    return f"(({ask} or {no}) and not ({ask} and not {yes}))"


def network_condition(field: str, networks: Sequence[IPNetwork], leaf: int = LEAF) -> str:
    """A Falco condition that holds where the field's address lies in one of the networks.

    Args:
        field: ``fd.snet`` or ``fd.cnet``.
        networks: of one family, disjoint and in order, at least one.
        leaf: how many networks end a branch, at least one.
    """
    return _branch(field, networks, leaf)
