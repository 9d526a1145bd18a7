"""How many connections there may be, and how many from one peer. Pure counting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What the gate lets in.

    Attributes:
        connections: in all.
        known_each: with client certificates of one host.
        strangers: without a client certificate, in all.
        strangers_each: without a client certificate, from one address.
    """

    connections: int = 20_000
    known_each: int = 32
    strangers: int = 512
    strangers_each: int = 64


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who a connection counts for.

    Attributes:
        key: the id of the host that the certificate names, or a stranger's address.
        known: whether it has a certificate.
    """

    key: str
    known: bool


class ConnectionGate:
    """Counts open connections; strangers never take the room of hosts, nor one host another's."""

    def __init__(self, limits: GateLimits) -> None:
        self._limits = limits
        self._each: Counter[Visitor] = Counter()
        self.open = 0
        self.strangers = 0
        self.refused = 0

    def enter(self, visitor: Visitor) -> bool:
        """Count a connection in; ``False`` if it must be closed, and then it is not counted."""
        limits = self._limits
        each = limits.known_each if visitor.known else limits.strangers_each
        if (
            self.open >= limits.connections
            or self._each[visitor] >= each
            or (not visitor.known and self.strangers >= limits.strangers)
        ):
            self.refused += 1
            return False
        self._each[visitor] += 1
        self.open += 1
        self.strangers += not visitor.known
        return True

    def leave(self, visitor: Visitor) -> None:
        """Count a connection out that :meth:`enter` let in."""
        self.open -= 1
        self.strangers -= not visitor.known
        self._each[visitor] -= 1
        if self._each[visitor] <= 0:
            del self._each[visitor]
