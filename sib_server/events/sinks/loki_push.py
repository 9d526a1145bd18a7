"""How an event becomes an entry of a Loki stream, and entries become push requests. Pure.

Labels are ``source``, ``host`` and ``priority`` and nothing else; what has many values (rule, tags,
technique, event id, host id) is structured metadata; the line is the one that Falco wrote.
The same event with the same fix is the same entry, byte for byte, so Loki drops it when it
comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import cramjam
import msgspec

from sib_server.events.sinks import loki_wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sib_server.events.stored import StoredEvent

SOURCE_UNPARSED: Final = "unparsed"
SOURCE_OTHER: Final = "other"
PRIORITY_UNKNOWN: Final = "Unknown"
"""The label of an event that names no priority that Falco knows."""

MAX_METADATA_VALUE: Final = 1024
"""Bytes of one metadata value; Loki takes 64 KiB for all of an entry's."""

ENTRY_OVERHEAD: Final = 8 * 1024
"""More than anything but its line can add to a request of one entry."""

SHARED_STREAM_BYTES: Final = 128 * 1024
"""A stream with more than this in one delivery gets a request of its own."""

_CACHED: Final = 8192
_CACHED_BYTES: Final = 2048
_METADATA_CODE: Final = "utf-8"
_TIMES_END: Final = 1 << 63


class TimeLevel:
    """Which time an entry carries; each is tried after Loki refused the one before."""

    EVENT: Final = 0
    RECEIVED: Final = 1
    NOW: Final = 2


class Fix(NamedTuple):
    """How an entry differs from its event, because Loki does not take the event as it is.

    Attributes:
        level: one of :class:`TimeLevel`.
        time_ns: the entry's time where the level is NOW; else None.
        line_limit: the most bytes of the line; None for all.
    """

    level: int = TimeLevel.EVENT
    time_ns: int | None = None
    line_limit: int | None = None


NO_FIX: Final = Fix()


class Entry(NamedTuple):
    """One event as Loki gets it.

    Attributes:
        event: the event.
        stream: the stream's labels, as Loki writes them.
        time_ns: the entry's time, nanoseconds since 1970 UTC.
        wire: the entry framed for the push request.
        fix: what was changed.
        adjusted: the time is not the event's own.
        truncated: the line is shorter than the event's.
    """

    event: StoredEvent
    stream: bytes
    time_ns: int
    wire: bytes
    fix: Fix
    adjusted: bool
    truncated: bool


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


_TAGS: Final = b'"tags":['
_tags_decoder: Final = msgspec.json.Decoder(_Tags)


def _clip(text: str) -> bytes:
    raw = text.encode(_METADATA_CODE, "replace")
    if len(raw) <= MAX_METADATA_VALUE:
        return raw
    return _clip_bytes(raw, MAX_METADATA_VALUE)


def _clip_bytes(raw: bytes, limit: int) -> bytes:
    """At most ``limit`` bytes of valid UTF-8, cut between characters."""
    if len(raw) <= limit:
        return raw
    end = limit
    while end > 0 and raw[end] & 0xC0 == 0x80:
        end -= 1
    return raw[:end]


def _pair(name: str, value: str) -> bytes:
    return loki_wire.metadata(name.encode(), _clip(value))


class EventEncoder:
    """Makes entries of events.

    What repeats from event to event (labels, and the metadata that a rule brings) is framed
    once and remembered, within a bound.

    Args:
        sources: event sources that may be a label's value. The text is the host's word, and a
            host that made it up anew each time would make streams without end.
    """

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources = frozenset(sources)
        self._repeating: dict[tuple[object, ...], tuple[bytes, bytes]] = {}

    def encode(self, event: StoredEvent, fix: Fix = NO_FIX) -> Entry:
        """The entry of an event under a fix."""
        summary = event.summary
        own = summary.time_ns
        # Loki keeps times as nanoseconds in 64 bits; a clock before 1970 is no time either.
        if own is not None and fix.level == TimeLevel.EVENT and 0 <= own < _TIMES_END:
            time_ns = own
        else:
            time_ns = event.received_ns if fix.time_ns is None else fix.time_ns
        stream, repeating = self._what_repeats(event)
        event_id = event.event_id
        pairs = loki_wire.event_id(f"{event_id.stream}/{event_id.number}".encode()) + repeating
        adjusted = own is not None and time_ns != own
        if adjusted:
            pairs += _pair("sib_event_time", str(own))
        if event.notes:
            pairs += b"".join(_pair(name.replace(".", "_"), value) for name, value in event.notes)
        line = event.line
        if summary.unparsed:
            line, changed = _as_utf8(line)
            if changed:
                pairs += _pair("sib_invalid_utf8", "true")
        truncated = False
        if fix.line_limit is not None and len(line) > fix.line_limit:
            truncated = True
            line = _clip_bytes(line, fix.line_limit)
            pairs += _pair("sib_truncated", str(len(event.line)))
        wire = loki_wire.entry(time_ns, line, pairs)
        return Entry(event, stream, time_ns, wire, fix, adjusted, truncated)

    def _what_repeats(self, event: StoredEvent) -> tuple[bytes, bytes]:
        """The stream's labels, and the metadata that more events than this one have."""
        summary = event.summary
        priority = summary.priority
        # Tags come as the rule has them, so their text stands for them. Falco writes them after
        # everything that a host could make look like tags.
        begin = event.line.rfind(_TAGS)
        text = event.line[begin : event.line.find(b"]", begin)] if begin >= 0 else b""
        key = (
            event.host_id,
            event.host_name,
            summary.rule,
            summary.techniques,
            # An enum's own hash is a call in Python; its value's is not.
            None if priority is None else priority._value_,
            summary.source,
            text,
        )
        found = self._repeating.get(key)
        if found is None:
            found = self._labels(event).encode(), self._pairs(event)
            size = len(text) + len(summary.rule) + len(summary.source) + len(summary.techniques)
            # Without the text nothing says that the tags are the same; what is long would stay.
            if text and size <= _CACHED_BYTES and not summary.unparsed:
                if len(self._repeating) >= _CACHED:
                    self._repeating.clear()
                self._repeating[key] = found
        return found

    def _labels(self, event: StoredEvent) -> str:
        summary = event.summary
        if summary.unparsed:
            source = SOURCE_UNPARSED
        else:
            source = summary.source if summary.source in self._sources else SOURCE_OTHER
        priority = summary.priority.value if summary.priority else PRIORITY_UNKNOWN
        # Every value is one of a fixed set or a host name, so nothing here needs quoting; the
        # order is the one in which Loki itself writes labels.
        return f'{{host="{event.host_name}", priority="{priority}", source="{source}"}}'

    def _pairs(self, event: StoredEvent) -> bytes:
        summary = event.summary
        tags = () if summary.unparsed else _tags_decoder.decode(event.line).tags or ()
        pairs = [_pair("host_id", event.host_id)]
        if summary.rule:
            pairs.append(_pair("rule", summary.rule))
        if tags:
            pairs.append(_pair("tags", ",".join(tags)))
        if summary.techniques:
            pairs.append(_pair("technique", ",".join(summary.techniques)))
        if summary.source and summary.source not in self._sources:
            pairs.append(_pair("event_source", summary.source))
        return b"".join(pairs)


def _as_utf8(line: bytes) -> tuple[bytes, bool]:
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.decode("utf-8", "replace").encode(), True
    return line, False


class PushRequest(NamedTuple):
    """Entries that go in one push, by stream.

    Attributes:
        streams: per stream its entries, oldest first.
    """

    streams: tuple[tuple[Entry, ...], ...]

    @property
    def entries(self) -> list[Entry]:
        """All entries."""
        return [entry for entries in self.streams for entry in entries]

    def body(self) -> bytes:
        """The request's body: a protocol buffer under snappy."""
        raw = b"".join(
            loki_wire.stream(entries[0].stream, [entry.wire for entry in entries])
            for entries in self.streams
        )
        return bytes(cramjam.snappy.compress_raw(raw))


def plan(
    entries: Sequence[Entry], trusted: Callable[[bytes, int], bool], max_bytes: int
) -> list[list[PushRequest]]:
    """Divide entries among push requests.

    Loki's ingester answers for the last stream of a request only: where an earlier stream's
    entries were refused (too far behind, per-stream rate) and the last one's were not, the answer
    is 204 and the refused entries are gone. So streams share a request only while nothing in
    them can be refused; every other stream gets requests of its own, whose answers are exact.

    Args:
        entries: in any order.
        trusted: whether a stream whose oldest entry has this time may share a request.
        max_bytes: the most that a request may hold before compression; one larger entry goes alone.

    Returns:
        Lanes: requests of one lane must be sent one after the other, so that the entries
        of a stream come in order; lanes do not depend on each other.
    """
    by_stream: dict[bytes, list[Entry]] = {}
    for item in entries:
        by_stream.setdefault(item.stream, []).append(item)
    lanes: list[list[PushRequest]] = []
    shared: list[tuple[Entry, ...]] = []
    shared_bytes = 0
    for stream, members in by_stream.items():
        members.sort(key=_time_of)
        size = sum(len(item.wire) for item in members) + len(stream)
        if size > min(SHARED_STREAM_BYTES, max_bytes) or not trusted(stream, members[0].time_ns):
            lanes.append([PushRequest((part,)) for part in _parts(members, max_bytes)])
            continue
        if shared and shared_bytes + size > max_bytes:
            lanes.append([PushRequest(tuple(shared))])
            shared, shared_bytes = [], 0
        shared.append(tuple(members))
        shared_bytes += size
    if shared:
        lanes.append([PushRequest(tuple(shared))])
    return lanes


def _time_of(item: Entry) -> int:
    return item.time_ns


def _parts(members: list[Entry], max_bytes: int) -> list[tuple[Entry, ...]]:
    parts: list[tuple[Entry, ...]] = []
    part: list[Entry] = []
    size = 0
    for item in members:
        if part and size + len(item.wire) > max_bytes:
            parts.append(tuple(part))
            part, size = [], 0
        part.append(item)
        size += len(item.wire)
    parts.append(tuple(part))
    return parts
