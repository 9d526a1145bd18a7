"""A token-bucket limit on attempts, for each remote address and for all together. Pure.

The caller brings the time (seconds, of a clock that does not jump) and the lock.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

_MOST_ADDRESSES: Final = 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """How many attempts are admitted.

    Attributes:
        burst: at once, after a rest; at least 1.
        per_second: in the long run.
    """

    burst: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of a burst.

    Attributes:
        level: attempts left.
        at: when that was so, seconds.
    """

    level: float
    at: float

    def refilled(self, rate: Rate, now: float) -> Bucket:
        """The bucket at a later time."""
        gained = max(0.0, now - self.at) * rate.per_second
        return Bucket(min(rate.burst, self.level + gained), max(now, self.at))

    def wait(self, rate: Rate) -> float:
        """Seconds until an attempt is admitted; 0 when one is now."""
        return 0.0 if self.level >= 1.0 else (1.0 - self.level) / rate.per_second

    def changed(self, by: float, rate: Rate) -> Bucket:
        """With attempts taken out, or given back up to the burst."""
        return Bucket(min(rate.burst, self.level + by), self.at)


def address_key(remote: str) -> str:
    """Who counts as one: an IPv4 address, an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


class AttemptLimiter:
    """Counts attempts; not thread-safe by itself.

    Memory is bounded: of the addresses, those that were quiet the longest are forgotten. Who owns
    thousands of addresses meets the limit on all of them together.

    Args:
        each: for one address.
        together: for all of them.
    """

    def __init__(self, each: Rate, together: Rate) -> None:
        self._each = each
        self._together = together
        self._all: Bucket | None = None
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses)

    def admit(self, remote: str, now: float) -> float:
        """Take an attempt. Returns 0, or the seconds to wait when it is not admitted."""
        key = address_key(remote)
        own = self._addresses.get(key, Bucket(self._each.burst, now)).refilled(self._each, now)
        everyone = (self._all or Bucket(self._together.burst, now)).refilled(self._together, now)
        wait = max(own.wait(self._each), everyone.wait(self._together))
        if wait == 0.0:
            own = own.changed(-1.0, self._each)
            everyone = everyone.changed(-1.0, self._together)
        self._all = everyone
        self._remember(key, own)
        return wait

    def forgive(self, remote: str, now: float) -> None:
        """Give an attempt back that turned out to be right, so that only wrong ones count."""
        key = address_key(remote)
        if key in self._addresses:
            bucket = self._addresses[key].refilled(self._each, now)
            self._remember(key, bucket.changed(1.0, self._each))
        if self._all is not None:
            bucket = self._all.refilled(self._together, now)
            self._all = bucket.changed(1.0, self._together)

    def _remember(self, key: str, bucket: Bucket) -> None:
        self._addresses[key] = bucket
        self._addresses.move_to_end(key)
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
