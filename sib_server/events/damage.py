"""Damaged rows: what is known of them, and that each is told once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_protocol.events import Priority, sib_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_protocol.ids import EventId
    from sib_server.events.stored import Seq

DAMAGE_RULE: Final = "SIB journal damage"
_REMEMBERED: Final = 100_000


@dataclass(frozen=True, slots=True)
class JournalDamage:
    """Rows that are not what was written.

    Attributes:
        first: place of the first one.
        last: place of the last one, included.
        event_id: what the row says it is, where that can still be read; not to be trusted.
        reason: how it was found.
    """

    first: Seq
    last: Seq
    event_id: EventId | None
    reason: str


def damage_event(damage: JournalDamage, time_ns: int) -> bytes:
    """The event that makes damage visible."""
    where = (
        f"event {damage.first}"
        if damage.first == damage.last
        else f"events {damage.first} to {damage.last}"
    )
    return sib_event(
        rule=DAMAGE_RULE,
        priority=Priority.CRITICAL,
        time_ns=time_ns,
        output=f"The journal's {where} cannot be read any more: {damage.reason}",
        fields={
            "sib.first_seq": damage.first,
            "sib.last_seq": damage.last,
            "sib.event_id": str(damage.event_id or ""),
            "sib.reason": damage.reason,
        },
    )


class DamageLog:
    """Passes each damage on once, however many readers meet it. From any thread.

    Attributes:
        events: how many damaged events were met so far.
    """

    def __init__(self, on_new: Callable[[JournalDamage], None]) -> None:
        """Pass new damage to ``on_new``, in the thread that met it."""
        self.events = 0
        self._on_new = on_new
        self._seen: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def __call__(self, damage: JournalDamage) -> None:
        """Note damage that a reader met."""
        place = (damage.first, damage.last)
        with self._lock:
            if place in self._seen:
                return
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen.add(place)
            self.events += damage.last - damage.first + 1
        self._on_new(damage)
