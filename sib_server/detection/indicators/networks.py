"""A test for networks whose cost grows with the logarithm of their number. Pure.

Falco compares ``fd.snet in (...)`` with one network after the other. Its conditions end as soon as
they are decided, though, so the networks are put into a tree of prefixes: each branch begins with a
test for the prefix that holds all of it, and an address passes one branch instead of all.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.indicators.exclusions import IPNetwork

LEAF: Final = 4
"""So many networks are compared one by one at the end of a branch."""


def common_prefix(first: IPNetwork, last: IPNetwork) -> IPNetwork:
    """The narrowest network that holds both."""
    bits = first.max_prefixlen
    low = int(first.network_address)
    differing = (low ^ int(last.broadcast_address)).bit_length()
    length = min(bits - differing, first.prefixlen, last.prefixlen)
    base = low >> (bits - length) << (bits - length)
    if isinstance(first, ipaddress.IPv4Network):
        return ipaddress.IPv4Network((base, length))
    return ipaddress.IPv6Network((base, length))


def _halves(
    networks: Sequence[IPNetwork], prefix: IPNetwork
) -> tuple[Sequence[IPNetwork], Sequence[IPNetwork]]:
    """Sorted, disjoint networks below a prefix by the bit after it."""
    middle = int(prefix.network_address) + prefix.num_addresses // 2
    at = next(
        (at for at, network in enumerate(networks) if int(network.network_address) >= middle),
        len(networks),
    )
    return networks[:at], networks[at:]


def _branch(field: str, networks: Sequence[IPNetwork], leaf: int) -> str:
    if len(networks) == 1:
        return f"{field} = {networks[0]}"
    prefix = common_prefix(networks[0], networks[-1])
    if len(networks) <= leaf:
        items = ", ".join(str(network) for network in networks)
        return f"({field} = {prefix} and {field} in ({items}))"
    low, high = _halves(networks, prefix)
    return f"({field} = {prefix} and ({_branch(field, low, leaf)} or {_branch(field, high, leaf)}))"


def network_condition(field: str, networks: Sequence[IPNetwork], leaf: int = LEAF) -> str:
    """A Falco condition that holds where the field's address lies in one of the networks.

    Args:
        field: ``fd.snet`` or ``fd.cnet``.
        networks: of one family, disjoint and in order, at least one.
        leaf: how many networks end a branch.
    """
    return _branch(field, networks, leaf)
