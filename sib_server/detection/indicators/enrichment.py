"""Events held against indicators: what is known of what they name. Pure over an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from sib_server.detection.indicators.extraction import is_interesting, observables_in
from sib_server.detection.indicators.kinds import Kind, Observable
from sib_server.detection.indicators.rules import Tier

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_server.detection.indicators.index import Match


class Lookup(Protocol):
    """What enrichment needs of an index."""

    def matches(self, observable: Observable) -> list[Match]:
        """Every indicator that a value meets."""
        ...


class FleetSighting(msgspec.Struct, frozen=True):
    """Where an indicator was met before.

    Attributes:
        host: the host's name.
        events: how many events.
        first_ns: the first one, nanoseconds since 1970 UTC.
        last_ns: the last one.
        event: id of the last one.
    """

    host: str
    events: int
    first_ns: int
    last_ns: int
    event: str


class Enrichment(msgspec.Struct, frozen=True):
    """What threat intelligence says of one value in one event.

    Attributes:
        field: the event's field in which the value stands.
        value: the value in canonical spelling.
        kind: of the indicator.
        indicator: what the value meets: itself, its network, its parent domain, its host.
        relation: how it meets it.
        feeds: that name the indicator, the surest first.
        confidence: 0 to 100 over all feeds.
        tier: high, medium or low.
        first_seen: by a feed, seconds since 1970 UTC.
        last_seen: by a feed.
        age_seconds: since it was seen last by a feed.
        notes: malware and listings' names, the surest feed's first.
        seen_before: where in the fleet, by host.
    """

    field: str
    value: str
    kind: str
    indicator: str
    relation: str
    feeds: tuple[str, ...]
    confidence: int
    tier: str
    first_seen: int
    last_seen: int
    age_seconds: int
    notes: tuple[str, ...]
    seen_before: tuple[FleetSighting, ...] = ()

    @property
    def observable(self) -> Observable:
        """The indicator."""
        return Observable(Kind(self.kind), self.indicator)


def nowhere(_indicator: Observable) -> tuple[FleetSighting, ...]:
    """A history that knows nothing."""
    return ()


def enrichment_of(
    field: str, match: Match, *, now: int, seen_before: tuple[FleetSighting, ...] = ()
) -> Enrichment:
    """One match in words and numbers."""
    indicator = match.indicator
    notes = dict.fromkeys(s.note for s in indicator.sightings if s.note)
    return Enrichment(
        field=field,
        value=match.asked.value,
        kind=indicator.observable.kind.value,
        indicator=indicator.observable.value,
        relation=match.relation.value,
        feeds=indicator.feeds,
        confidence=indicator.confidence,
        tier=Tier.of(indicator.confidence).value,
        first_seen=indicator.first_seen,
        last_seen=indicator.last_seen,
        age_seconds=max(0, now - indicator.last_seen),
        notes=tuple(notes),
        seen_before=seen_before,
    )


def enrich(
    line: bytes,
    index: Lookup,
    *,
    now: int,
    history: Callable[[Observable], tuple[FleetSighting, ...]] = nowhere,
) -> tuple[Enrichment, ...]:
    """All that threat intelligence says of an event, the surest first; empty for most events.

    Args:
        line: the event as Falco wrote it.
        index: the indicators.
        now: seconds since 1970 UTC.
        history: where an indicator was met before in the fleet.
    """
    found = [
        enrichment_of(place.field, match, now=now, seen_before=history(match.indicator.observable))
        for place in observables_in(line)
        if is_interesting(place)
        for match in index.matches(place.observable)
    ]
    return tuple(sorted(found, key=lambda e: (-e.confidence, e.value, e.indicator, e.field)))
