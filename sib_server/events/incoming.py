"""What comes to the journal, and how it decides what to take of it.

Pure: the invariant is that a stream's ``next`` only grows, that everything below it is stored or
lost by report, and that nothing at or above it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_protocol.ids import HostId, HostName, LineNumber, StreamId
    from sib_protocol.messages import GapReason
    from sib_server.events.failures import (
        NumberRangeError,
        StreamOwnedError,
        TooManyStreamsError,
    )
    from sib_server.events.stored import Seq

MAX_NUMBER: Final = 2**62
"""No stream lives long enough to get there; a host that names more is lying."""


@dataclass(frozen=True, slots=True)
class IncomingBatch:
    """Lines of one stream, in order.

    Attributes:
        stream: whose lines.
        host_id: from the certificate of the sender.
        host_name: from the same certificate.
        first: number of the first line.
        lines: without newlines.
    """

    stream: StreamId
    host_id: HostId
    host_name: HostName
    first: LineNumber
    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class IncomingGap:
    """Lines of one stream that will never come.

    Attributes:
        stream: whose lines.
        host_id: from the certificate of the sender.
        host_name: from the same certificate.
        first: number of the first lost line.
        last: number of the last one, included.
        reason: why.
    """

    stream: StreamId
    host_id: HostId
    host_name: HostName
    first: LineNumber
    last: LineNumber
    reason: GapReason


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """An event that the server makes; goes into the journal's own stream.

    Attributes:
        line: as :func:`sib_protocol.events.sib_event` makes it.
        host_id: the host it is about, or the journal's own id.
        host_name: its name.
    """

    line: bytes
    host_id: HostId
    host_name: HostName


Incoming: TypeAlias = IncomingBatch | IncomingGap | ServerRecord


@dataclass(frozen=True, slots=True)
class Accepted:
    """All below ``next`` is durable.

    Attributes:
        next: the first number that the journal does not have.
        stored: how many lines were new; after a salvage some of them may have been there already,
            above ``next``, and were not stored again.
        skipped: how many it had already.
        last_seq: the journal's newest event after this.
    """

    next: LineNumber
    stored: int
    skipped: int
    last_seq: Seq


@dataclass(frozen=True, slots=True)
class Wanted:
    """Nothing was taken: it begins above ``next``, and the journal wants it from there.

    Attributes:
        next: the first number that the journal does not have.
    """

    next: LineNumber


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was taken, and never will be.

    Attributes:
        error: why.
    """

    error: StreamOwnedError | NumberRangeError | TooManyStreamsError


Outcome: TypeAlias = Accepted | Wanted | Refused


@dataclass(frozen=True, slots=True)
class Take:
    """What to take of numbers ``first`` to ``end - 1``.

    Attributes:
        start: the first number that is new; equals ``end`` when nothing is.
        next: the stream's next number afterwards.
    """

    start: int
    next: int


def decide_take(known_next: int | None, first: int, end: int) -> Take | None:
    """Compare what came with where the stream stands.

    Args:
        known_next: the stream's next number; ``None`` for a stream never seen.
        first: number of the first line, or lost line.
        end: one above the last.

    Returns:
        What to take, or ``None`` when it begins above the next number.
    """
    if known_next is None:
        return Take(first, end)
    if first > known_next:
        return None
    return Take(min(known_next, end), max(known_next, end))
