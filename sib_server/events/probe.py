"""The doctor's probe: an event that proves the way, and alarms nobody. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.events import Priority, sib_event

if TYPE_CHECKING:
    from sib_server.events.stored import StoredEvent

PROBE_RULE: Final = "SIB probe"
ALERT_PROBE_RULE: Final = "SIB probe of alerts"
"""Goes to Falcosidekick's outputs: people see it, and asked for it."""


def probe_event(nonce: str, time_ns: int, *, alert: bool) -> bytes:
    """A probe's line.

    Args:
        nonce: in it, to find it by.
        time_ns: nanoseconds since 1970 UTC.
        alert: whether Falcosidekick's outputs are to get it.
    """
    if alert:
        return sib_event(
            rule=ALERT_PROBE_RULE,
            priority=Priority.CRITICAL,
            time_ns=time_ns,
            output="This is a test: 'sib-server doctor --alert' tries the way of an alert",
            fields={"sib.probe": nonce},
        )
    return sib_event(
        rule=PROBE_RULE,
        priority=Priority.DEBUG,
        time_ns=time_ns,
        output="sib-server doctor tries the way of an event",
        fields={"sib.probe": nonce},
    )


def is_quiet(event: StoredEvent) -> bool:
    """Whether an event is a probe that no output may alert for."""
    return event.summary.rule == PROBE_RULE and event.summary.source == "sib"
