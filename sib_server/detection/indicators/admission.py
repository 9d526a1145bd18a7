"""Whether a download may take the place of the last good one. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from sib_server.detection.indicators.merge import DAY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.detection.indicators.formats.records import Reading
    from sib_server.detection.indicators.settings import AdmissionLimits

_MARKUP: Final = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|script|!--)", re.I
)


class Trouble(Enum):
    """Why a feed keeps its last good version; the value is a fixed word for programs."""

    UNREACHABLE = "unreachable"
    STATUS = "status"
    TOO_LARGE = "too-large"
    TOO_SLOW = "too-slow"
    REDIRECT = "redirect"
    DAMAGED = "damaged"
    MARKUP = "markup"
    EMPTY = "empty"
    WRONG_CONTENT = "wrong-content"
    INCOMPLETE = "incomplete"
    SHRUNK = "shrunk"
    GROWN = "grown"
    KEY = "key"
    LATER = "later"
    """The feed's owner asked to come back later; no alarm."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a download is not taken.

    Attributes:
        trouble: the kind.
        reason: a sentence with the numbers in it.
    """

    trouble: Trouble
    reason: str


class Replaced(msgspec.Struct, frozen=True):
    """A size that a feed had until then.

    Attributes:
        at: when another version took the place of the one of that size, seconds since 1970 UTC.
        size: how many indicators it had.
    """

    at: int
    size: int


def remember(
    replaced: Iterable[Replaced], previous: int | None, *, now: int, days: int
) -> tuple[Replaced, ...]:
    """A feed's former sizes once another version takes the place of its last one.

    One a day is kept, the smallest, and none that :func:`smallest` would not look at.
    """
    former = [one for one in replaced if one.at > now - days * DAY]
    if previous is not None and days:
        former.append(Replaced(now, previous))
    of_days: dict[int, Replaced] = {}
    for one in former:
        known = of_days.get(one.at // DAY, one)
        of_days[one.at // DAY] = Replaced(one.at, min(one.size, known.size))
    return tuple(of_days.values())


def smallest(
    previous: int | None, replaced: Iterable[Replaced], *, now: int, days: int
) -> int | None:
    """The smallest size that a feed had in the last days; ``None``: it had none yet."""
    if previous is None:
        return None
    return min([previous, *(one.size for one in replaced if one.at > now - days * DAY)])


def judge_bytes(content: bytes) -> Refusal | None:
    """Refuse what is a web page: a login, a block page, a maintenance notice."""
    if _MARKUP.match(content):
        return Refusal(Trouble.MARKUP, "the feed has turned into a web page")
    return None


def judge_reading(
    reading: Reading,
    usable: int,
    previous: int | None,
    limits: AdmissionLimits,
    *,
    lowest: int | None = None,
    may_be_empty: bool = False,
) -> Refusal | None:
    """Decide about a download by what came out of it.

    Args:
        reading: all that was read.
        usable: how many different indicators are left after exclusions.
        previous: how many the last good version had; ``None``: there was none.
        limits: how much may change.
        lowest: the smallest size of late, where that is less than the last one.
        may_be_empty: no entry at all is fine.

    Returns:
        Why it is refused, or ``None``.
    """
    return _judge_content(reading, usable, limits, may_be_empty) or _judge_size(
        usable, previous, lowest, limits
    )


def _judge_content(
    reading: Reading, usable: int, limits: AdmissionLimits, may_be_empty: bool
) -> Refusal | None:
    entries = len(reading.records) + reading.rejected
    sample = f", such as {reading.samples[0]!r}" if reading.samples else ""
    if entries == 0:
        return None if may_be_empty else Refusal(Trouble.EMPTY, "it has no entry")
    if not reading.records or reading.rejected / entries > limits.rejected:
        reason = f"{reading.rejected} of its {entries} entries are no indicators{sample}"
        return Refusal(Trouble.WRONG_CONTENT, reason)
    if reading.declared not in (None, entries) and not reading.cut:
        reason = f"it says it has {reading.declared} entries and has {entries}"
        return Refusal(Trouble.INCOMPLETE, reason)
    if usable == 0:
        reason = f"all of its {entries} entries are excluded from indicators"
        return Refusal(Trouble.WRONG_CONTENT, reason)
    return None


def _judge_size(
    usable: int, previous: int | None, lowest: int | None, limits: AdmissionLimits
) -> Refusal | None:
    if previous is None or max(previous, usable) < limits.small:
        return None
    if usable * limits.shrink < previous:
        return Refusal(Trouble.SHRUNK, f"it shrank from {previous} to {usable} indicators")
    if usable > max(previous, limits.small) * limits.grow:
        return Refusal(Trouble.GROWN, f"it grew from {previous} to {usable} indicators")
    if lowest is not None and usable > max(lowest, limits.small) * limits.grow:
        reason = f"it grew from {lowest} to {usable} indicators within {limits.days} days"
        return Refusal(Trouble.GROWN, reason)
    return None
