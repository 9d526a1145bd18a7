"""Looking backwards: stored events held against indicators that were not known when they came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from sib_protocol.events import EventSummary, Priority, sib_event
from sib_server.detection.indicators.alarms import SEEN_RULE
from sib_server.detection.indicators.enrichment import FleetSighting, Lookup
from sib_server.detection.indicators.extraction import is_interesting, observables_in
from sib_server.detection.indicators.kinds import Observable
from sib_server.detection.indicators.rules import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_protocol.ids import EventId, HostName
    from sib_server.detection.indicators.merge import Indicator

MAX_PAIRS: Final = 10_000


class SeenEvent(Protocol):
    """What a hunt needs of a stored event; ``sib_server.events.stored.StoredEvent`` has it all."""

    @property
    def event_id(self) -> EventId:
        """Stream and number."""
        ...

    @property
    def host_name(self) -> HostName:
        """The host's name as its certificate said."""
        ...

    @property
    def received_ns(self) -> int:
        """When the server received it, nanoseconds since 1970 UTC."""
        ...

    @property
    def summary(self) -> EventSummary:
        """Its searchable part."""
        ...

    @property
    def line(self) -> bytes:
        """As Falco wrote it."""
        ...


@dataclass(slots=True)
class _Tally:
    events: int = 0
    first_ns: int = 0
    last_ns: int = 0
    event: str = ""

    def add(self, moment: int, event: str) -> None:
        if self.events == 0 or moment < self.first_ns:
            self.first_ns = moment
        if self.events == 0 or moment >= self.last_ns:
            self.last_ns, self.event = moment, event
        self.events += 1


@dataclass(slots=True)
class HuntReport:
    """What a hunt found.

    Attributes:
        searched: how many events were looked at.
        indicators: those that were met, by observable.
        truncated: more pairs of indicator and host than are kept were met.
    """

    searched: int = 0
    indicators: dict[Observable, Indicator] = field(default_factory=dict)
    truncated: bool = False
    _tallies: dict[Observable, dict[str, _Tally]] = field(default_factory=dict)
    _pairs: int = 0

    def add(self, indicator: Indicator, host: str, moment: int, event: str) -> None:
        """Count one event that meets an indicator."""
        hosts = self._tallies.setdefault(indicator.observable, {})
        if host not in hosts:
            if self._pairs >= MAX_PAIRS:
                self.truncated = True
                return
            self._pairs += 1
            hosts[host] = _Tally()
        self.indicators[indicator.observable] = indicator
        hosts[host].add(moment, event)

    def seen(self, observable: Observable) -> tuple[FleetSighting, ...]:
        """Where an indicator was met, the last meeting first; a history for enrichment."""
        sightings = [
            FleetSighting(host, tally.events, tally.first_ns, tally.last_ns, tally.event)
            for host, tally in self._tallies.get(observable, {}).items()
        ]
        return tuple(sorted(sightings, key=lambda seen: (-seen.last_ns, seen.host)))


def hunt(
    events: Iterable[SeenEvent],
    index: Lookup,
    *,
    added_since: int = 0,
    only: frozenset[Observable] | None = None,
) -> HuntReport:
    """Hold stored events against indicators. Pure over what it is given.

    Args:
        events: in any order.
        index: the indicators.
        added_since: only indicators that SIB has had since then, seconds since 1970 UTC.
        only: only these indicators.
    """
    report = HuntReport()
    for event in events:
        report.searched += 1
        moment = event.summary.time_ns if event.summary.time_ns is not None else event.received_ns
        met: set[Observable] = set()
        for place in observables_in(event.line):
            if not is_interesting(place):
                continue
            for match in index.matches(place.observable):
                indicator = match.indicator
                wanted = only is None or indicator.observable in only
                if indicator.added < added_since or not wanted or indicator.observable in met:
                    continue
                met.add(indicator.observable)
                report.add(indicator, event.host_name, moment, str(event.event_id))
    return report


_PRIORITY: Final = {
    Tier.HIGH: Priority.CRITICAL,
    Tier.MEDIUM: Priority.WARNING,
    Tier.LOW: Priority.NOTICE,
}


def seen_events(report: HuntReport, *, time_ns: int) -> list[bytes]:
    """An event line for each indicator and host that met before the indicator was known.

    Args:
        report: of a hunt.
        time_ns: now, nanoseconds since 1970 UTC.
    """
    return [
        _seen_event(indicator, seen, time_ns)
        for observable, indicator in report.indicators.items()
        for seen in report.seen(observable)
    ]


def _seen_event(indicator: Indicator, seen: FleetSighting, time_ns: int) -> bytes:
    value = indicator.observable.value
    return sib_event(
        rule=SEEN_RULE,
        priority=_PRIORITY[Tier.of(indicator.confidence)],
        time_ns=time_ns,
        output=(
            f"{seen.host} met {value} in {seen.events} earlier events; "
            f"{', '.join(indicator.feeds)} now name it"
        ),
        fields={
            "sib.host": seen.host,
            "sib.indicator": value,
            "sib.kind": indicator.observable.kind.value,
            "sib.feeds": ",".join(indicator.feeds),
            "sib.confidence": indicator.confidence,
            "sib.events": seen.events,
            "sib.first_ns": seen.first_ns,
            "sib.last_ns": seen.last_ns,
            "sib.event": seen.event,
        },
    )
