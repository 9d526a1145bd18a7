"""How long to wait before trying again. Pure: the caller sleeps."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter.

    A fleet that lost its server at one instant must not come back at one instant: the wait is
    drawn evenly between half the ceiling and the ceiling; each failure doubles the ceiling.

    Attributes:
        first: the ceiling of the first wait, seconds.
        longest: the ceiling never passes this, seconds.
        failures: how many failures there were since the last success.
    """

    first: float = 0.5
    longest: float = 60.0
    failures: int = 0

    def failed(self) -> Backoff:
        """The state after one more failure."""
        return replace(self, failures=self.failures + 1)

    def succeeded(self) -> Backoff:
        """The state after a success."""
        return replace(self, failures=0)

    def ceiling(self) -> float:
        """The longest that the next wait may be, seconds; 0 without failures."""
        if self.failures == 0:
            return 0.0
        return min(self.longest, self.first * 2.0 ** min(self.failures - 1, 30))

    def wait(self, draw: random.Random, *, at_least: float = 0.0) -> float:
        """Seconds to wait now.

        Args:
            draw: the source of randomness.
            at_least: what the other side asked for (``Retry-After``), kept as a lower bound.
        """
        ceiling = self.ceiling()
        return max(at_least, draw.uniform(ceiling / 2, ceiling))
