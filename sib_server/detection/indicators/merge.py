"""How what several feeds tell of one indicator becomes one answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sib_server.detection.indicators.formats.records import Record
    from sib_server.detection.indicators.kinds import Observable

DAY: Final = 86_400
AGREEMENT: Final = 5
"""What each further feed adds to the confidence of the surest one."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An indicator as one feed tells of it, as it is kept.

    Attributes:
        feed: the feed's name.
        first_seen: seconds since 1970 UTC; as the feed says, else when SIB saw it first there.
        last_seen: as the feed says, else when SIB saw it last there.
        added: when SIB first had it from this feed.
        expires: when it is dropped if the feed does not name it again.
        confidence: 0 to 100.
        note: the malware's or listing's name.
    """

    feed: str
    first_seen: int
    last_seen: int
    added: int
    expires: int
    confidence: int
    note: str


@dataclass(frozen=True, slots=True)
class Indicator:
    """An indicator, merged over all feeds that name it.

    Attributes:
        observable: what it is.
        sightings: one a feed, the surest first; never empty.
    """

    observable: Observable
    sightings: tuple[Sighting, ...]

    @property
    def confidence(self) -> int:
        """The surest feed's confidence, and a little more for each feed that agrees."""
        further = AGREEMENT * (len(self.sightings) - 1)
        return min(100, self.sightings[0].confidence + further)

    @property
    def first_seen(self) -> int:
        """When the first feed saw it first."""
        return min(sighting.first_seen for sighting in self.sightings)

    @property
    def last_seen(self) -> int:
        """When a feed saw it last."""
        return max(sighting.last_seen for sighting in self.sightings)

    @property
    def added(self) -> int:
        """When SIB had it first."""
        return min(sighting.added for sighting in self.sightings)

    @property
    def expires(self) -> int:
        """When the last feed's word for it ends."""
        return max(sighting.expires for sighting in self.sightings)

    @property
    def feeds(self) -> tuple[str, ...]:
        """The feeds that name it, the surest first."""
        return tuple(sighting.feed for sighting in self.sightings)


def join(observable: Observable, sightings: Sequence[Sighting]) -> Indicator:
    """An indicator from what feeds tell of it; the order of the feeds does not matter."""
    return Indicator(observable, tuple(sorted(sightings, key=lambda s: (-s.confidence, s.feed))))


def fold(
    feed: str, records: Iterable[Record], *, now: int, confidence: int, expires_days: int
) -> dict[Observable, Sighting]:
    """What one download says, an observable each: the widest times, the highest confidence.

    Args:
        feed: the feed's name.
        records: from its reader; what has ended by the feed's own word is left out.
        now: seconds since 1970 UTC.
        confidence: for entries for which the feed says none.
        expires_days: how long an entry lives once the feed names it no more.
    """
    folded: dict[Observable, Sighting] = {}
    for record in records:
        if record.valid_until is not None and record.valid_until <= now:
            continue
        # A feed's clock may be ahead: nothing was seen in the future.
        first = min(record.first_seen if record.first_seen is not None else now, now)
        last = max(first, min(record.last_seen if record.last_seen is not None else now, now))
        end = now + expires_days * DAY
        sighting = Sighting(
            feed,
            first,
            last,
            now,
            end if record.valid_until is None else min(end, record.valid_until),
            record.confidence if record.confidence is not None else confidence,
            record.note,
        )
        known = folded.get(record.observable)
        folded[record.observable] = sighting if known is None else renewed(known, sighting)
    return folded


def renewed(known: Sighting, fresh: Sighting) -> Sighting:
    """A sighting after the same feed told of it again."""
    return Sighting(
        fresh.feed,
        min(known.first_seen, fresh.first_seen),
        max(known.last_seen, fresh.last_seen),
        min(known.added, fresh.added),
        max(known.expires, fresh.expires) if known.added == fresh.added else fresh.expires,
        max(known.confidence, fresh.confidence) if known.added == fresh.added else fresh.confidence,
        fresh.note or known.note,
    )
