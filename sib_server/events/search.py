"""Finding events in the journal, in bounded memory and without holding the writer up.

No query stays open while a result is looked at: rows are fetched in pages, so that a slow reader
never keeps the write-ahead log from being taken over.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from sib_server.events.failures import JournalDamagedError
from sib_server.events.query import (
    Statement,
    kinds_statement,
    matches,
    scan_statement,
    stream_statement,
    windows,
)
from sib_server.events.schema import EVENT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sib_server.events.query import Query
    from sib_server.events.reader import JournalReader
    from sib_server.events.stored import StoredEvent

_PAGE_ROWS: Final = 256
_PAGE_BYTES: Final = 4 * 1024 * 1024


def search(reader: JournalReader, query: Query) -> Iterator[StoredEvent]:
    """The events that a query asks for, in the journal's order or its reverse.

    Damaged events are left out and reported to the reader's ``on_damage``. Events that are pruned
    or accepted while the search runs may or may not be among the results.

    Raises:
        JournalError: the journal cannot be read.
    """
    bounds = reader.bounds(query)
    if bounds is None:
        return
    left = query.limit
    for event in _candidates(reader, query, *bounds):
        if not matches(query, event):
            continue
        yield event
        if left is not None:
            left -= 1
            if left == 0:
                return


def _run(reader: JournalReader, statement: Statement) -> Iterator[tuple[Any, ...]]:
    return reader.rows(statement.sql, statement.parameters)


def _candidates(reader: JournalReader, query: Query, low: int, high: int) -> Iterator[StoredEvent]:
    newest_first = query.newest_first
    streams = None if query.host is None else reader.streams_of(query.host)
    kinds = reader.planned_kinds(query) if streams is None else None
    if streams is not None:
        places = _places_of_streams(reader, streams, low, high, newest_first=newest_first)
    elif kinds is not None:
        places = _places_of_kinds(reader, kinds, low, high, newest_first=newest_first)
    else:
        for window in windows(low, high, newest_first=newest_first):
            yield from _scan(reader, window, newest_first=newest_first)
        return
    yield from _at(reader, places)


def _at(reader: JournalReader, places: Iterable[int]) -> Iterator[StoredEvent]:
    for seq in places:
        row = reader.row_at(seq)
        event = None if row is None else reader.decode(row)
        if event is not None:
            yield event


def _scan(reader: JournalReader, window: range, *, newest_first: bool) -> Iterator[StoredEvent]:
    """All events of a window; where the way to them is damaged, each is asked for by its place."""
    low, high = window[0], window[-1]
    while low <= high:
        page: list[StoredEvent] = []
        size = 0
        statement = scan_statement(EVENT_COLUMNS, low, high, newest_first=newest_first)
        try:
            for row in _run(reader, statement):
                event = reader.decode(row)
                if event is not None:
                    page.append(event)
                    size += len(event.line)
                    if len(page) >= _PAGE_ROWS or size >= _PAGE_BYTES:
                        break
        except JournalDamagedError:
            left = range(low, high + 1)
            yield from _at(reader, reversed(left) if newest_first else left)
            return
        yield from page
        if len(page) < _PAGE_ROWS and size < _PAGE_BYTES:
            return
        # Only whole events say where to go on: a damaged place may read as anything.
        if newest_first:
            high = page[-1].seq - 1
        else:
            low = page[-1].seq + 1


def _places_of_kinds(
    reader: JournalReader, kinds: list[int], low: int, high: int, *, newest_first: bool
) -> Iterator[int]:
    for window in windows(low, high, newest_first=newest_first):
        statement = kinds_statement(kinds, window[0], window[-1])
        try:
            rows = [row[0] for row in _run(reader, statement)]
            found = sorted({seq for seq in rows if seq in window}, reverse=newest_first)
        except JournalDamagedError:
            # The index is damaged, which says nothing about the events: ask for each.
            found = sorted(window, reverse=newest_first)
        yield from found


def _places_of_streams(
    reader: JournalReader, streams: list[int], low: int, high: int, *, newest_first: bool
) -> Iterator[int]:
    each = [_places_of_stream(reader, ref, low, high, newest_first=newest_first) for ref in streams]
    before = None
    for seq in heapq.merge(*each, reverse=newest_first):
        if seq != before:
            yield seq
        before = seq


def _places_of_stream(
    reader: JournalReader, ref: int, low: int, high: int, *, newest_first: bool
) -> Iterator[int]:
    beyond = 2**63 - 1 if newest_first else -1
    while low <= high:
        try:
            chunk = list(_run(reader, stream_statement(ref, beyond, newest_first=newest_first)))
        except JournalDamagedError:
            chunk = [(None, None)]
        if not chunk:
            return
        if not _is_index(chunk, beyond, newest_first=newest_first):
            # The index is damaged, which says nothing about the events: ask for each that is left.
            left = range(low, high + 1)
            yield from reversed(left) if newest_first else left
            return
        beyond = chunk[-1][0]
        places = sorted((seq for _number, seq in chunk), reverse=newest_first)
        yield from (seq for seq in places if low <= seq <= high)
        if newest_first:
            high = min(high, places[-1] - 1)
        else:
            low = max(low, places[-1] + 1)


def _is_index(chunk: list[tuple[Any, ...]], beyond: int, *, newest_first: bool) -> bool:
    """Whether (number, place) pairs are ordered integers that lead on, as a whole index gives."""
    for number, seq in chunk:
        if not (isinstance(number, int) and isinstance(seq, int)):
            return False
        if (number >= beyond) if newest_first else (number <= beyond):
            return False
        beyond = number
    return True
