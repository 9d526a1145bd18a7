"""What every sink is: takes events, and returns when all of them are where they belong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sib_server.events.stored import StoredEvent


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """What became of the events of one delivery; every event is accepted or refused.

    Attributes:
        accepted: events that the store holds now, adjusted and truncated ones included.
        adjusted: accepted under another time than the event's own, which the store refused.
        truncated: accepted with a shortened line.
        refused: events that the store will never take, by reason; the journal still holds them.
    """

    accepted: int = 0
    adjusted: int = 0
    truncated: int = 0
    refused: Mapping[str, int] | None = None

    @property
    def refused_count(self) -> int:
        """How many events were refused, for whatever reason."""
        return sum(self.refused.values()) if self.refused else 0


class SinkUnavailableError(SibError):
    """A sink that did not take events now and may take them later.

    Attributes:
        sink: the sink's name.
        reason: what happened, in a few words.
        retry_after: how long the other side asked to be left alone, seconds; None if it did not.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, sink: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(
            f"the sink {sink} does not take events: {reason}",
            f"see whether {sink} runs and what it logs; the events wait in the journal",
        )
        self.sink = sink
        self.reason = reason
        self.retry_after = retry_after


class Sink(Protocol):
    """A place where the journal delivers.

    Attributes:
        name: one word, for metrics and logs.
        max_events: the most events that one delivery may hold.
        max_bytes: the most that the lines of one delivery should hold together; one longer line
            is delivered alone.
    """

    name: str
    max_events: int
    max_bytes: int

    async def deliver(self, events: Sequence[StoredEvent]) -> DeliveryReport:
        """Deliver events, in the journal's order; returning means that none needs to come again.

        After a failure the same events come again, perhaps with more behind them.

        Raises:
            SinkUnavailableError: not all could be delivered.
        """

    async def close(self) -> None:
        """Let go of connections. Nothing may be delivered afterwards."""
