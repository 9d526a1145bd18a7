"""What the readers of all formats have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Final

from sib_server.detection.indicators.kinds import Kind, Observable, parse_address, url_host

MAX_NOTE: Final = 120
_MAX_SAMPLES: Final = 5
_MAX_SAMPLE: Final = 120
_EARLIEST: Final = 0
_LATEST: Final = 4_102_444_800  # 2100: later times are mistakes


@dataclass(frozen=True, slots=True)
class Record:
    """One indicator as one feed tells of it.

    Attributes:
        observable: what it is.
        first_seen: when the feed saw it first, seconds since 1970 UTC; ``None``: it doesn't say.
        last_seen: when the feed saw it last.
        valid_until: when the feed takes it back by itself.
        confidence: 0 to 100 as the feed says, or ``None``.
        note: the malware's or listing's name, at most 120 characters.
    """

    observable: Observable
    first_seen: int | None = None
    last_seen: int | None = None
    valid_until: int | None = None
    confidence: int | None = None
    note: str = ""


@dataclass(slots=True)
class Reading:
    """What came out of one download.

    Attributes:
        records: in the feed's order; an observable may come twice.
        rejected: how many entries were no indicator although they stood in the place of one.
        samples: the first few of those, cut.
        declared: how many entries the feed itself says it has, where it says so.
        cut: the feed has more entries than allowed; the rest was not looked at.
    """

    records: list[Record] = field(default_factory=list)
    rejected: int = 0
    samples: list[str] = field(default_factory=list)
    declared: int | None = None
    cut: bool = False

    def reject(self, text: object) -> None:
        """Count an entry that cannot be used."""
        self.rejected += 1
        if len(self.samples) < _MAX_SAMPLES:
            self.samples.append(printable(str(text)[:_MAX_SAMPLE]))


def printable(text: str) -> str:
    """The text with every character that could steer a terminal replaced."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def clean_note(text: object) -> str:
    """A name from a feed, cut and made safe to show; what feeds write for "none" is none."""
    if not isinstance(text, str):
        return ""
    text = printable(text[:MAX_NOTE].strip())
    return "" if text.lower() in ("none", "null", "n/a", "-", "unknown") else text


def parse_time(value: object) -> int | None:
    """Seconds since 1970 UTC of a time as feeds write it; ``None`` where it is none.

    Taken are ISO 8601 with or without a zone (UTC then), a date alone, and seconds since 1970.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        # A whole number of hundreds of digits cannot become a float; it can be compared.
        moment: float = value
    else:
        text = str(value)[:40].strip().removesuffix(" UTC")
        if text.isascii() and text.isdigit() and len(text) <= 10:
            moment = float(text)
        else:
            try:
                parsed = datetime.fromisoformat(text)
                if parsed.tzinfo is None:
                    parsed = parsed.replace(tzinfo=timezone.utc)
                moment = parsed.timestamp()
            except (ValueError, OverflowError):
                return None
    return int(moment) if _EARLIEST < moment < _LATEST else None


def parse_confidence(value: object) -> int | None:
    """A confidence of 0 to 100, from a number or its text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if 0 <= number <= 100 else None


def derived_address(record: Record) -> Record | None:
    """The address that a URL leads to where its host is an address, else ``None``."""
    if record.observable.kind is not Kind.URL:
        return None
    host = url_host(record.observable)
    address = parse_address(host.value) if host else None
    if address is None:
        return None
    return Record(
        address,
        record.first_seen,
        record.last_seen,
        record.valid_until,
        record.confidence,
        record.note,
    )
