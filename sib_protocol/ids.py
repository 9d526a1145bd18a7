"""Names for the numbers and strings that must not be mixed up."""

from __future__ import annotations

import re
import uuid
from typing import NewType

import msgspec

from sib_protocol.errors import MalformedMessageError

HostId = NewType("HostId", str)
"""A host's UUID, in canonical lower-case text; it never changes while the host is enrolled."""

HostName = NewType("HostName", str)
"""What people call a host; unique among the enrolled ones."""

StreamId = NewType("StreamId", str)
"""A UUID, in canonical lower-case text, of one numbered stream of lines (one spool's life)."""

LineNumber = NewType("LineNumber", int)
"""The place of a line in its stream, counted from 0."""

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class EventId(msgspec.Struct, frozen=True, order=True, gc=False):
    """What names an event for ever: its stream and its number there.

    The text form is ``<stream uuid>/<number>``. It is the same on every re-send, so a store that
    drops identical entries drops re-sent events too.
    """

    stream: StreamId
    number: LineNumber

    def __str__(self) -> str:
        return f"{self.stream}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Read the text form.

        Raises:
            MalformedMessageError: the text is not ``<uuid>/<number>``.
        """
        stream, slash, number = text.partition("/")
        if not slash or not (number.isascii() and number.isdigit()) or len(number) > 19:
            raise MalformedMessageError(
                f"{text!r} is not an event id", "an event id looks like <stream uuid>/<number>"
            )
        return cls(parse_stream_id(stream), LineNumber(int(number)))


def _canonical_uuid(text: str, what: str) -> str:
    try:
        canonical: str | None = str(uuid.UUID(text))
    except ValueError:
        canonical = None
    # uuid.UUID also takes braces, urn: and missing dashes: two spellings would be two ids.
    if canonical is None or canonical != text:
        raise MalformedMessageError(f"{text[:80]!r} is not a {what}: a lower-case UUID is wanted")
    return canonical


def parse_stream_id(text: str) -> StreamId:
    """Check that a text is a stream id. Raises MalformedMessageError."""
    return StreamId(_canonical_uuid(text, "stream id"))


def parse_host_id(text: str) -> HostId:
    """Check that a text is a host id. Raises MalformedMessageError."""
    return HostId(_canonical_uuid(text, "host id"))


def parse_host_name(text: str) -> HostName:
    """Check that a text can name a host: letters, digits, dot, dash, underscore; 253 at most.

    Raises:
        MalformedMessageError: it cannot.
    """
    if not _HOST_NAME.fullmatch(text):
        raise MalformedMessageError(
            f"{text[:80]!r} cannot name a host",
            "use letters, digits, dots, dashes and underscores, with a letter or digit at each end",
        )
    return HostName(text)


def new_stream_id() -> StreamId:
    """A fresh random stream id."""
    return StreamId(str(uuid.uuid4()))


def new_host_id() -> HostId:
    """A fresh random host id."""
    return HostId(str(uuid.uuid4()))
