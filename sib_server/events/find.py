"""One event by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError
from sib_server.events.failures import JournalDamagedError
from sib_server.events.query import Query
from sib_server.events.search import search

if TYPE_CHECKING:
    from sib_protocol.ids import EventId
    from sib_server.events.reader import JournalReader
    from sib_server.events.stored import StoredEvent

_PLACE: Final = "SELECT seq FROM events INDEXED BY events_by_number WHERE stream = ? AND number = ?"


class UnknownEventError(SibError):
    """The journal has no event of this id.

    Attributes:
        event_id: the id.
    """

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, event_id: EventId) -> None:
        super().__init__(
            f"the journal has no event {event_id}",
            "see 'sib-server events search --json' for ids; old events have been given up",
        )
        self.event_id = event_id


def find_event(reader: JournalReader, event_id: EventId) -> StoredEvent:
    """The event of an id.

    Raises:
        UnknownEventError: there is none, or it is damaged.
        JournalError: the journal cannot be read.
    """
    streams = reader.streams_called(event_id.stream)
    try:
        for ref in streams or ():
            for (seq,) in reader.rows(_PLACE, (ref, event_id.number)):
                row = reader.row_at(seq)
                event = None if row is None else reader.decode(row)
                if event is not None and event.event_id == event_id:
                    return event
    except JournalDamagedError:
        streams = None
    if streams is None:
        # The way to it is damaged, which says nothing about the event.
        for event in search(reader, Query(limit=None)):
            if event.event_id == event_id:
                return event
    raise UnknownEventError(event_id)
