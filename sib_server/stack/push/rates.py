"""How much each host may push: a bucket of bytes per host. Pure but for its own memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sib_protocol.ids import HostId

_MAX_HOSTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """One host's allowance.

    A body's size is known only when it is read, so a host may go into debt by one body and
    then waits until the debt is worked off.

    Attributes:
        tokens: bytes left; negative while in debt.
        at: when that was so, seconds of a monotonic clock.
    """

    tokens: float
    at: float

    def filled(self, now: float, rate: float, burst: float) -> Bucket:
        """The bucket as it stands now."""
        return Bucket(min(burst, self.tokens + max(0.0, now - self.at) * rate), now)

    def wait(self, rate: float) -> float:
        """Seconds until something may be pushed again; 0 when it may now."""
        return max(0.0, -self.tokens / rate)


class HostRates:
    """The buckets of all hosts, bounded in number: the ones longest unused are forgotten.

    Args:
        rate: bytes per second that a host may push in the long run.
        burst: bytes that it may push at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[HostId, Bucket] = OrderedDict()

    def wait(self, host: HostId, now: float) -> float:
        """Seconds until a host may push; 0 when it may now."""
        return self._bucket(host, now).wait(self._rate)

    def spend(self, host: HostId, size: int, now: float) -> None:
        """Take what a host pushed from its bucket."""
        bucket = self._bucket(host, now)
        self._buckets[host] = Bucket(bucket.tokens - size, bucket.at)
        self._buckets.move_to_end(host)
        if len(self._buckets) > _MAX_HOSTS:
            self._buckets.popitem(last=False)

    def _bucket(self, host: HostId, now: float) -> Bucket:
        found = self._buckets.get(host)
        if found is None:
            return Bucket(self._burst, now)
        return found.filled(now, self._rate, self._burst)
