"""The trial's live table: what has arrived in the journal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from sib_protocol.console import plain_table, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_protocol.events import Priority
    from sib_server.events.stored import StoredEvent


@dataclass(frozen=True, slots=True)
class Arrival:
    """One row of the table: events that differ in nothing but time and detail."""

    host: str
    rule: str
    priority: Priority | None
    techniques: tuple[str, ...]

    @property
    def severity(self) -> int:
        """0 is the most severe; unparsed lines come last."""
        return self.priority.severity if self.priority is not None else 8

    def cells(self) -> tuple[str, str, str, str]:
        """Host, priority, technique, rule."""
        return (
            printable(self.host),
            self.priority.value if self.priority is not None else "unparsed",
            printable(" ".join(self.techniques)) or "-",
            printable(self.rule) or "-",
        )


def count_arrivals(events: Iterable[StoredEvent]) -> Counter[Arrival]:
    """How many events of each kind there are."""
    return Counter(
        Arrival(
            event.host_name,
            event.summary.rule,
            event.summary.priority,
            event.summary.techniques,
        )
        for event in events
    )


def _sorted(counts: Counter[Arrival]) -> list[tuple[Arrival, int]]:
    return sorted(counts.items(), key=lambda item: (item[0].severity, -item[1], item[0].rule))


_STYLES = ("bold red", "bold red", "bold red", "red", "yellow", "cyan", "white", "dim", "dim")


def live_table(counts: Counter[Arrival], caption: str) -> Table:
    """The table for a terminal."""
    table = Table(
        "host", "priority", "technique", "rule", caption=caption, box=None, header_style="bold"
    )
    table.add_column("events", justify="right")
    for arrival, count in _sorted(counts):
        host, priority, techniques, rule = arrival.cells()
        table.add_row(
            host, Text(priority, style=_STYLES[arrival.severity]), techniques, rule, str(count)
        )
    return table


def text_table(counts: Counter[Arrival]) -> str:
    """The table for a file or a pipe."""
    rows = [(*arrival.cells(), str(count)) for arrival, count in _sorted(counts)]
    return plain_table(("HOST", "PRIORITY", "TECHNIQUE", "RULE", "EVENTS"), rows)


@dataclass(frozen=True, slots=True)
class Balance:
    """What was written against what is stored, as multisets of lines.

    Attributes:
        written: lines written.
        stored: lines stored.
        missing: written and not stored.
        doubled: stored and not written, or more often than written.
    """

    written: int
    stored: int
    missing: int
    doubled: int

    @property
    def exact(self) -> bool:
        """Whether every line is stored exactly once."""
        return self.missing == 0 and self.doubled == 0


def balance(written: Iterable[bytes], stored: Iterable[bytes]) -> Balance:
    """Compare them."""
    ours, theirs = Counter(written), Counter(stored)
    return Balance(ours.total(), theirs.total(), (ours - theirs).total(), (theirs - ours).total())
