"""Events on their way to the sinks get what threat intelligence says of them.

The journal keeps each line as Falco wrote it; what is known of it is added when it leaves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import SibError
from sib_server.detection.indicators.enrichment import enrich
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.sightings import Meeting, SightingBook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sib_server.detection.indicators.enrichment import Enrichment, FleetSighting
    from sib_server.detection.indicators.kinds import Observable
    from sib_server.events.stored import Seq, StoredEvent

_log: Final = logging.getLogger(__name__)
_REMEMBERED: Final = 16_384
_LOOK_SECONDS: Final = 1.0
_NAMED_HOSTS: Final = 5

Notes = tuple[tuple[str, str], ...]


def notes_of(enrichments: Sequence[Enrichment]) -> Notes:
    """What is added to an event: the surest indicator in full, the others as a number.

    Args:
        enrichments: of one event, the surest first.
    """
    if not enrichments:
        return ()
    first = enrichments[0]
    notes = [
        ("sib.intel.indicator", first.indicator),
        ("sib.intel.kind", first.kind),
        ("sib.intel.field", first.field),
        ("sib.intel.feeds", ",".join(first.feeds)),
        ("sib.intel.confidence", str(first.confidence)),
        ("sib.intel.first_seen", _day(first.first_seen)),
        ("sib.intel.age_days", str(first.age_seconds // 86_400)),
    ]
    if first.notes:
        notes.append(("sib.intel.notes", ", ".join(first.notes)))
    others = len({enrichment.indicator for enrichment in enrichments}) - 1
    if others:
        notes.append(("sib.intel.more", str(others)))
    if first.seen_before:
        notes.append(("sib.intel.seen_before", _seen(first.seen_before)))
    return tuple(notes)


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"


def _seen(sightings: Sequence[FleetSighting]) -> str:
    named = [
        f"{seen.host}: {seen.events} since {_day(seen.first_ns // 10**9)}"
        for seen in sightings[:_NAMED_HOSTS]
    ]
    more = len(sightings) - len(named)
    return "; ".join(named) + (f"; and {more} hosts more" if more else "")


class Annotator:
    """Adds notes to events; shared by the sinks, from whose threads it is called.

    Whatever fails here costs notes, never an event: the sinks go on without.

    Args:
        directory: of the indicators.
        journal: id of the journal that the events come from.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self, directory: Path, journal: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._looked = float("-inf")
        self._book: SightingBook | None = None
        self._known: OrderedDict[int, Notes] = OrderedDict()
        self.met = 0
        """Events that met an indicator, since the start."""
        self.problem: str | None = None
        """Why events go without notes now."""

    def __call__(self, events: list[StoredEvent]) -> list[StoredEvent]:
        """The same events, those that meet an indicator with notes."""
        with self._lock:
            try:
                return self._annotate(events)
            except SibError as error:
                if self.problem != error.problem:
                    _log.warning("events go without threat intelligence: %s", error.problem)
                self.problem = error.problem
                return events

    def close(self) -> None:
        """Give the files back."""
        with self._lock:
            if self._index is not None:
                self._index.close()
            if self._book is not None:
                self._book.close()
            self._index = self._book = None

    def _annotate(self, events: list[StoredEvent]) -> list[StoredEvent]:
        index = self._current()
        if not events or not len(index):
            return events
        now = int(self._clock())
        found = {
            event.seq: enriched
            for event in events
            if event.seq not in self._known and (enriched := enrich(event.line, index, now=now))
        }
        for event in events:
            self._known.setdefault(event.seq, ())
        if found:
            self._note(events, found)
        while len(self._known) > max(_REMEMBERED, len(events)):
            self._known.popitem(last=False)
        self.problem = None
        return [
            msgspec.structs.replace(event, notes=notes)
            if (notes := self._known.get(event.seq))
            else event
            for event in events
        ]

    def _note(self, events: list[StoredEvent], found: dict[Seq, tuple[Enrichment, ...]]) -> None:
        book = self._book = self._book or SightingBook(self._directory, self._journal)
        meetings = [
            _meeting(event, observable)
            for event in events
            for observable in {each.observable for each in found.get(event.seq, ())}
        ]
        self.met += sum(seq > book.counted_to for seq in found)
        before = {
            (meeting.seq, meeting.observable): seen
            for meeting, seen in zip(meetings, book.record(meetings, events[-1].seq), strict=True)
        }
        for seq, enriched in found.items():
            self._known[seq] = notes_of(
                [
                    msgspec.structs.replace(each, seen_before=before[seq, each.observable])
                    for each in enriched
                ]
            )

    def _current(self) -> Index:
        moment = time.monotonic()
        if self._index is not None and moment - self._looked < _LOOK_SECONDS:
            return self._index
        self._looked = moment
        if self._index is None or not self._index.is_current(self._directory):
            fresh = Index.open(self._directory)
            if self._index is not None:
                self._index.close()
            self._index = fresh
        return self._index


def _meeting(event: StoredEvent, observable: Observable) -> Meeting:
    own = event.summary.time_ns
    moment = event.received_ns if own is None else own
    return Meeting(observable, event.host_name, event.seq, moment, str(event.event_id))
