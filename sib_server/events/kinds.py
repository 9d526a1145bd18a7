"""The kinds of events: what the events of one rule have in common, kept once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_server.events.rows import NO_KIND, Damaged, Kind, KindRow, kind_of, kind_row, read_kind

if TYPE_CHECKING:
    import sqlite3

    from sib_protocol.events import EventSummary

MOST_KINDS: Final = 65_536
"""Falco's rules are hundreds; beyond this a host makes rules up, and their events go without."""


class KindBook:
    """Kinds by content, and those that the transaction under way adds."""

    def __init__(self, kinds: dict[int, Kind], highest: int) -> None:
        self._refs = {_key(kind): ref for ref, kind in kinds.items()}
        self._staged: dict[tuple[object, ...], KindRow] = {}
        self._next = highest + 1

    def ref(self, summary: EventSummary) -> int:
        """The kind of an event; :data:`NO_KIND` where it has none of its own."""
        # A plain tuple, because this runs for every event and building a Kind costs 1 us.
        key = (
            summary.rule, summary.priority, summary.source, summary.techniques, summary.unparsed
        )  # fmt: skip
        known = self._refs.get(key)
        if known is not None:
            return known
        kind = kind_of(summary)
        if kind is None or len(self._refs) >= MOST_KINDS:
            return NO_KIND
        ref = self._next
        self._next += 1
        self._refs[key] = ref
        self._staged[key] = kind_row(ref, kind)
        return ref

    def staged_rows(self) -> list[KindRow]:
        """The rows to write in this transaction."""
        return list(self._staged.values())

    def commit(self) -> None:
        """The transaction is durable."""
        self._staged = {}

    def rollback(self) -> None:
        """The transaction has not been."""
        for key in self._staged:
            del self._refs[key]
        self._staged = {}


def _key(kind: Kind) -> tuple[object, ...]:
    return kind.rule, kind.priority, kind.source, kind.techniques, kind.unparsed


def load_kinds(connection: sqlite3.Connection) -> tuple[dict[int, Kind], int]:
    """Read all kinds; damaged ones are left out, and their events are read from their lines.

    Returns:
        The kinds, and the highest number in use.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    kinds: dict[int, Kind] = {}
    highest = NO_KIND
    for row in connection.execute(
        "SELECT kind, rule, severity, source, techniques, unparsed, crc FROM kinds"
    ):
        # A damaged schema makes the key a column like any other, which may hold anything.
        if isinstance(row[0], int):
            highest = max(highest, row[0])
        try:
            ref, kind = read_kind(row)
        except Damaged:
            continue
        kinds[ref] = kind
    (in_use,) = connection.execute("SELECT max(kind) FROM events").fetchone()
    return kinds, max(highest, in_use if isinstance(in_use, int) else NO_KIND)
