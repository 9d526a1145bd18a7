"""When to ask the server which bundle this host shall have. Pure.

The answer to a health report tells it, and then nothing is asked. Where none came, or none comes
in time, the host asks by a request that says what it knows: the server answers from memory, stores
nothing, and where nothing changed says no more than that. So a published bundle is known here
within :data:`WITHIN_SECONDS` whatever becomes of health reports, as long as the server answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sib_protocol.backoff import Backoff

if TYPE_CHECKING:
    import random

WITHIN_SECONDS: Final = 30.0
SPREAD: Final = (0.75, 0.93)
"""Of an interval, so that a fleet that starts together does not ask together for ever."""

# After every report that is spread like this was due, and still in time.
_UNTOLD: Final = 0.95 * WITHIN_SECONDS
_REFUSED_SECONDS: Final = 600.0
_BACKOFF: Final = Backoff(first=5.0, longest=60.0)


@dataclass(frozen=True, slots=True)
class Asking:
    """When it is asked next.

    Attributes:
        due: when, seconds, monotonic.
        backoff: of questions that had no answer.
    """

    due: float
    backoff: Backoff = _BACKOFF

    @classmethod
    def begun(cls, now: float) -> Asking:
        """When the agent starts: its first report is made in a second."""
        return cls(now + _UNTOLD)

    def told(self, now: float, report_in: float, draw: random.Random) -> Asking:
        """A health report was answered, and that told it, also where there is no bundle.

        Args:
            now: seconds, monotonic.
            report_in: when the next report is made, seconds from now.
            draw: for the spread.
        """
        if report_in < _UNTOLD:
            return Asking(now + _UNTOLD, self.backoff.succeeded())
        return self.answered(now, draw)

    def answered(self, now: float, draw: random.Random) -> Asking:
        """The question was answered."""
        return Asking(now + WITHIN_SECONDS * draw.uniform(*SPREAD), self.backoff.succeeded())

    def failed(self, now: float, draw: random.Random, *, at_least: float = 0.0) -> Asking:
        """The question reached nobody, or one who wants to be left alone for a while.

        Args:
            now: seconds, monotonic.
            draw: for the spread.
            at_least: how long, seconds.
        """
        backoff = self.backoff.failed()
        return replace(self, due=now + backoff.wait(draw, at_least=at_least), backoff=backoff)

    def refused(self, now: float, draw: random.Random) -> Asking:
        """The server does not answer this: it is older, or the host is not its any more."""
        return Asking(now + _REFUSED_SECONDS * draw.uniform(*SPREAD), self.backoff.succeeded())
