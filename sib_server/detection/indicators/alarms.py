"""Event lines that SIB writes about its feeds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.events import Priority, sib_event

if TYPE_CHECKING:
    from sib_server.detection.indicators.admission import Trouble

REFUSED_RULE: Final = "SIB intel feed refused"
RECOVERED_RULE: Final = "SIB intel feed recovered"
SEEN_RULE: Final = "SIB intel seen before"


def refused_event(
    feed: str, trouble: Trouble, reason: str, *, kept: int | None, time_ns: int
) -> bytes:
    """The event for a feed that was not taken and whose last good version stays.

    Args:
        feed: its name.
        trouble: the kind.
        reason: the same as a sentence.
        kept: how many indicators the last good version has; ``None``: there is none.
        time_ns: nanoseconds since 1970 UTC.
    """
    stays = "there is no earlier version" if kept is None else f"{kept} indicators of before stay"
    return sib_event(
        rule=REFUSED_RULE,
        priority=Priority.WARNING,
        time_ns=time_ns,
        output=f"Feed {feed} was not taken: {reason}; {stays}",
        fields={
            "sib.feed": feed,
            "sib.trouble": trouble.value,
            "sib.reason": reason,
            "sib.kept": kept or 0,
        },
    )


def recovered_event(feed: str, indicators: int, *, time_ns: int) -> bytes:
    """The event for a feed that is taken again."""
    return sib_event(
        rule=RECOVERED_RULE,
        priority=Priority.NOTICE,
        time_ns=time_ns,
        output=f"Feed {feed} is taken again: {indicators} indicators",
        fields={"sib.feed": feed, "sib.indicators": indicators},
    )
