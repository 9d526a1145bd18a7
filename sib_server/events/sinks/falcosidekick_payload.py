"""What Falcosidekick is given of an event. Pure.

Falcosidekick reads JSON as Go does: keys in any case, the last of two wins, a wrong type refuses
the whole event, and a Kubernetes name that is no string makes its handler panic. So the event
is put together anew of the fields Falcosidekick knows, each of the type it expects, each value
as Falco wrote it; host and event id are the server's word, not the line's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import UNDECODABLE
from sib_protocol.events import DEMO_TAG, Priority

if TYPE_CHECKING:
    from sib_server.events.stored import StoredEvent

FALLBACK_PRIORITY: Final = Priority.WARNING
"""For an event that names no priority Falco knows: Falcosidekick refuses those."""

UNPARSED_RULE: Final = "SIB unparsed event"
UNNAMED_RULE: Final = "SIB event without a rule"
TEST_RULE: Final = "Test rule"
"""Falcosidekick sends this rule to every output, whatever their minimum priority."""

_NOTES: Final = "sib.intel."
"""Fields of this name are the server's word; a host that writes them itself is lying."""

_MAX_UNPARSED_OUTPUT: Final = 64 * 1024
_STRINGS_ONLY: Final = ("k8s.ns.name", "k8s.pod.name")

_Object = dict[str, msgspec.Raw]
_object_decoder: Final = msgspec.json.Decoder(_Object)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event on its way to Falcosidekick.

    Attributes:
        event: the event.
        body: the JSON to post.
        priority: as it stands in the body.
        rule: as it stands in the body.
    """

    event: StoredEvent
    body: bytes
    priority: Priority
    rule: str


class _Body(msgspec.Struct, omit_defaults=True):
    output: str
    priority: str
    rule: str
    time: str
    source: str
    hostname: str
    output_fields: dict[str, object]
    tags: msgspec.Raw | None = None


def outgoing(event: StoredEvent) -> Outgoing:
    """Make the body for one event, whatever its line holds."""
    summary = event.summary
    fields: dict[str, object] = {}
    tags: msgspec.Raw | None = None
    if summary.unparsed:
        output = event.line[:_MAX_UNPARSED_OUTPUT].decode("utf-8", "replace")
        fields["sib.unparsed"] = True
    else:
        alert = _object_decoder.decode(event.line)
        output = _text(alert.get("output"))
        fields.update(
            (name, value)
            for name, value in _fields(alert.get("output_fields")).items()
            if not name.startswith(_NOTES)
        )
        tags = alert.get("tags")
    fields.update(event.notes)
    fields["sib.event_id"] = str(event.event_id)
    fields["sib.host_id"] = event.host_id
    priority = summary.priority or FALLBACK_PRIORITY
    rule = summary.rule or (UNPARSED_RULE if summary.unparsed else UNNAMED_RULE)
    body = _Body(
        output=output,
        priority=priority.value,
        rule=rule,
        time=_time(event),
        source=summary.source or "sib",
        hostname=event.host_name,
        output_fields=fields,
        tags=tags,
    )
    return Outgoing(event, msgspec.json.encode(body), priority, rule)


class _Tags(msgspec.Struct):
    tags: tuple[str, ...] = ()


_tags_decoder: Final = msgspec.json.Decoder(_Tags)
_DEMO: Final = DEMO_TAG.encode()


def is_demo(line: bytes) -> bool:
    """Whether an event is a demonstration or a probe, which alerts nobody."""
    # Nearly no event is: the line is searched before it is read.
    if _DEMO not in line:
        return False
    try:
        return DEMO_TAG in _tags_decoder.decode(line).tags
    except UNDECODABLE:
        return False


def _text(raw: msgspec.Raw | None) -> str:
    """A JSON string's text; any other value as its JSON."""
    if raw is None:
        return ""
    try:
        return msgspec.json.decode(raw, type=str)
    except UNDECODABLE:
        return bytes(raw).decode("utf-8", "replace")


def _fields(raw: msgspec.Raw | None) -> dict[str, object]:
    if raw is None:
        return {}
    try:
        fields: dict[str, object] = dict(_object_decoder.decode(raw))
    except UNDECODABLE:
        return {"sib.output_fields": bytes(raw).decode("utf-8", "replace")}
    for name in _STRINGS_ONLY:
        value = fields.get(name)
        if isinstance(value, msgspec.Raw) and bytes(value) != b"null":
            fields[name] = _text(value)
    return fields


def _time(event: StoredEvent) -> str:
    own = event.summary.time_ns
    seconds, nanos = divmod(own if own is not None and own > 0 else event.received_ns, 10**9)
    moment = datetime.fromtimestamp(seconds, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"
