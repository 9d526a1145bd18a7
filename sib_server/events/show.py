"""How a stored event is written out: for programs as JSON, for people as cells of a table.

Pure. What hosts write is hostile: nothing of it reaches a terminal that is not plain text.
"""

from __future__ import annotations

import base64
import unicodedata
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from sib_protocol.errors import UNDECODABLE

if TYPE_CHECKING:
    from sib_server.events.stored import StoredEvent

MOST_OUTPUT: Final = 500
_HIDDEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})


class EventCells(NamedTuple):
    """One event for people, every cell safe to print."""

    received: str
    host: str
    priority: str
    rule: str
    techniques: str
    output: str


class _Output(msgspec.Struct):
    output: str = ""


def iso_time(nanoseconds: int) -> str:
    """A time in nanoseconds since 1970 UTC as ISO 8601, with all nine digits."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def is_json(line: bytes) -> bool:
    """Whether a line may stand inside other JSON as it is."""
    try:
        line.decode()
        msgspec.json.decode(line)
    except UNDECODABLE:
        return False
    return b"\n" not in line


def event_json(event: StoredEvent) -> bytes:
    """One event as a JSON object in one line; the event inside is what Falco wrote, byte for byte.

    A line that is no JSON is a string, undecodable bytes as backslash escapes, with the exact bytes
    under ``raw_base64``.
    """
    whole: dict[str, Any] = {
        "event_id": str(event.event_id),
        "host_id": event.host_id,
        "host_name": event.host_name,
        "received": iso_time(event.received_ns),
        "received_ns": event.received_ns,
        "unparsed": event.summary.unparsed,
    }
    if is_json(event.line):
        whole["event"] = msgspec.Raw(event.line)
    else:
        whole["event"] = event.line.decode(errors="backslashreplace")
        whole["raw_base64"] = base64.b64encode(event.line).decode()
    return msgspec.json.encode(whole)


def plain(text: str) -> str:
    """A text that a terminal shows as it is: controls, escapes, direction marks are spelt out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _spell(character) if unicodedata.category(character) in _HIDDEN else character
        for character in text
    )


def _spell(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def event_cells(event: StoredEvent) -> EventCells:
    """One event for people."""
    summary = event.summary
    output = ""
    if not summary.unparsed:
        try:
            output = msgspec.json.decode(event.line, type=_Output).output
        except UNDECODABLE:
            output = ""
    if not output:
        output = event.line[: MOST_OUTPUT * 4].decode(errors="backslashreplace")
    return EventCells(
        iso_time(event.received_ns)[:19] + "Z",
        plain(event.host_name),
        "" if summary.priority is None else summary.priority.value,
        plain(summary.rule[:MOST_OUTPUT]),
        " ".join(summary.techniques[:20]),
        plain(output[:MOST_OUTPUT]),
    )
