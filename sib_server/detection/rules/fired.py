"""When each rule last fired, from the journal."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from sib_server.events.query import Query
from sib_server.events.search import search
from sib_server.events.sinks.falcosidekick_payload import is_demo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.events.reader import JournalReader

_MOST_LOOKED_AT: Final = 2_000
"""Events of a rule that are looked at for one that is no demonstration."""


def last_fired(reader: JournalReader, rules: Iterable[str]) -> dict[str, int]:
    """When rules last fired; demonstrations do not count.

    Args:
        reader: of the journal.
        rules: names to look for.

    Returns:
        Rule name -> when its newest event was received, nanoseconds since 1970 UTC.

    Raises:
        JournalError: the journal cannot be read.
    """
    seen = {kind.rule for kind in reader.kinds().values()}
    found = {}
    for rule in rules:
        if rule not in seen:
            continue
        events = search(reader, Query(rule=rule))
        for event in islice(events, _MOST_LOOKED_AT):
            if not is_demo(event.line):
                found[rule] = event.received_ns
                break
    return found
