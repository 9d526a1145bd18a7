"""Whether somebody may be keeping new bundles from this host. Pure.

Which bundle a host shall have is told by whoever holds the server's TLS key, who can keep a new one
secret. But what the server signs has a short life, and names every bundle that any host may have.
So once what was proven last has expired, it is fetched and proven anew, without a bundle; then
either nothing fresh comes, or it shows whether what this host is told to have is still signed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sib_protocol.backoff import Backoff

if TYPE_CHECKING:
    import random

    from sib_protocol.messages import WantedBundle

# All hosts hold the same timestamp, which expires on all of them at once.
_SPREAD_SECONDS: Final = 3600.0
_NEVER: Final = float("inf")
_BACKOFF: Final = Backoff(first=300.0, longest=3600.0)


@dataclass(frozen=True, slots=True)
class Held:
    """What was proven last.

    Attributes:
        until: when its timestamp expires, seconds since 1970 UTC.
        versions: of the bundles that were signed then.
    """

    until: float
    versions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Freshness:
    """When it is fetched anew.

    Attributes:
        due: when, seconds, monotonic.
        problem: why what came was not proven, the last time that something came.
        backoff: of tries that failed.
    """

    due: float = _NEVER
    problem: str | None = None
    backoff: Backoff = _BACKOFF

    def seen(self, held: Held | None, now: float, steady: float, draw: random.Random) -> Freshness:
        """What is held was looked at.

        Args:
            held: ``None`` before anything was proven.
            now: seconds since 1970 UTC.
            steady: seconds, monotonic.
            draw: for the spread.
        """
        if held is not None and now < held.until:
            return Freshness()
        if self.due < _NEVER:
            return self
        return replace(self, due=steady + draw.uniform(0.0, _SPREAD_SECONDS))

    def failed(self, steady: float, draw: random.Random, *, unproven: str | None) -> Freshness:
        """A try did not bring anything fresh.

        Args:
            steady: seconds, monotonic.
            draw: for the spread.
            unproven: why what came was not proven; ``None`` where nothing came.
        """
        backoff = self.backoff.failed()
        due = steady + backoff.wait(draw)
        return Freshness(due, unproven if unproven is not None else self.problem, backoff)


def withheld(held: Held | None, wanted: WantedBundle | None, problem: str | None) -> str | None:
    """Why new bundles may be kept from this host; ``None`` if nothing speaks for it.

    Args:
        held: what was proven last.
        wanted: what the server says this host shall have.
        problem: see :attr:`Freshness.problem`.
    """
    if problem is not None:
        return f"what the server has is not fresh, and hides what is newer: {problem}"
    if held is None or wanted is None or not held.versions:
        return None
    # A newer one than those was signed since; an older one is signed for nobody any more.
    if wanted.version >= min(held.versions):
        return None
    signed = ", ".join(map(str, sorted(held.versions)))
    return f"the server says bundle {wanted.version}, and what it signs says {signed}"
