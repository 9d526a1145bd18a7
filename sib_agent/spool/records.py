"""The bytes of a segment file: frames, marks, commits. Pure.

A segment is a row of frames, little-endian, without padding::

    magic (4) | crc32 (4) | length (4) | number (8) | payload (length)

The crc covers length, number and payload, and is seeded with the magic, so a frame cannot change
its kind by a flipped bit. There are three kinds: a LINE carries one event line; HEAD and TAIL carry
the same :class:`Mark` before and after the lines of one commit. Either of them is enough, so that
one damaged frame costs at most one line, while a torn write costs the whole commit, its lines and
its source position together.

Every magic holds a newline, and no line does: whatever a hostile process gets Falco to write, a
line can never be taken for a frame when the reader looks for the next one behind damage.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from uuid import UUID
from zlib import crc32

from sib_protocol.ids import LineNumber, StreamId
from sib_protocol.limits import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_protocol.messages import GapReason

_PREFIX: Final = b"\x9eS"
_FRAME: Final = struct.Struct("<4sIIQ")
_SEAL: Final = struct.Struct("<4sI")
_SEALED: Final = struct.Struct("<IQ")
_MARK: Final = struct.Struct("<16sQQdBQQQ16s")
FRAME_BYTES: Final = _FRAME.size
"""What a frame needs beside its payload, bytes."""

MARK_FRAME_BYTES: Final = FRAME_BYTES + _MARK.size
FINGERPRINT_REACH: Final = 64
"""How many bytes before a position are remembered, to know the file again."""


class FrameKind(Enum):
    """What a frame carries; the value is its magic."""

    LINE = _PREFIX + b"L\n"
    HEAD = _PREFIX + b"h\n"
    TAIL = _PREFIX + b"t\n"


_KINDS: Final = {kind.value: kind for kind in FrameKind}
_SEEDS: Final = {kind: crc32(kind.value) for kind in FrameKind}


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """How far the events file is in the spool.

    Attributes:
        device: ``st_dev`` of the file.
        inode: ``st_ino`` of the file.
        offset: bytes of it that are in the spool.
        fingerprint: :func:`fingerprint` of the bytes right before ``offset``.
    """

    device: int
    inode: int
    offset: int
    fingerprint: bytes


def fingerprint(before: bytes) -> bytes:
    """What to remember of the bytes right before a position (16 bytes; the last 64 count)."""
    return blake2b(before[-FINGERPRINT_REACH:], digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that follow each other.

    Attributes:
        first: number of the first one.
        lines: at least one, without newlines.
    """

    first: LineNumber
    lines: list[bytes]


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines that will never come.

    Attributes:
        first: number of the first one.
        last: number of the last one, included.
        reason: why.
    """

    first: LineNumber
    last: LineNumber
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Mark:
    """What a commit says of itself, before and after its lines.

    Attributes:
        stream: the spool's stream.
        first: number of the commit's first line.
        next: number of the line after its last one.
        written: when, seconds since 1970 UTC by the host's clock.
        position: where the source stands after it; ``None`` before anything was read.
    """

    stream: StreamId
    first: LineNumber
    next: LineNumber
    written: float
    position: SourcePosition | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One valid frame found in a buffer; ``start`` and ``end`` are its place there."""

    kind: FrameKind
    number: LineNumber
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The buffer ends inside what may be a frame.

    Attributes:
        start: where that begins; nothing before it is a frame.
        wanted: bytes from there that are needed to tell.
    """

    start: int
    wanted: int


def _encode_mark(kind: FrameKind, mark: Mark) -> bytes:
    position = mark.position
    payload = _MARK.pack(
        UUID(mark.stream).bytes,
        mark.first,
        mark.next,
        mark.written,
        position is not None,
        position.device if position else 0,
        position.inode if position else 0,
        position.offset if position else 0,
        position.fingerprint if position else b"",
    )
    number = mark.first if kind is FrameKind.HEAD else mark.next
    sealed = _SEALED.pack(len(payload), number)
    return _SEAL.pack(kind.value, crc32(payload, crc32(sealed, _SEEDS[kind]))) + sealed + payload


def encode_commit(lines: Sequence[bytes], mark: Mark) -> bytes:
    """All bytes of one commit.

    Args:
        lines: as many as ``mark`` says; none holds a newline or is over ``MAX_LINE_BYTES``.
        mark: numbers and position.
    """
    pieces = [_encode_mark(FrameKind.HEAD, mark)]
    add, checksum, pack, seal = pieces.append, crc32, _SEALED.pack, _SEAL.pack
    magic, seed = FrameKind.LINE.value, _SEEDS[FrameKind.LINE]
    for number, line in enumerate(lines, mark.first):
        sealed = pack(len(line), number)
        add(seal(magic, checksum(line, checksum(sealed, seed))))
        add(sealed)
        add(line)
    add(_encode_mark(FrameKind.TAIL, mark))
    return b"".join(pieces)


def decode_mark(data: bytes, frame: Frame) -> Mark | None:
    """The mark that a valid HEAD or TAIL frame of a buffer carries; ``None`` if it is none."""
    if frame.end - frame.start != MARK_FRAME_BYTES:
        return None
    stream, first, next_, written, known, device, inode, offset, print_ = _MARK.unpack_from(
        data, frame.start + FRAME_BYTES
    )
    return Mark(
        StreamId(str(UUID(bytes=stream))),
        LineNumber(first),
        LineNumber(next_),
        written,
        SourcePosition(device, inode, offset, print_) if known else None,
    )


def find_frame(data: bytes, at: int, *, whole: bool) -> Frame | Incomplete | None:
    """The first valid frame at or after a place.

    Args:
        data: a part of a segment.
        at: where to begin looking.
        whole: nothing follows ``data`` in the segment.

    Returns:
        ``None`` when there is no further frame; :class:`Incomplete` (only if not ``whole``) when
        more bytes are needed to tell.
    """
    size = len(data)
    view = memoryview(data)
    while True:
        found = data.find(_PREFIX, at)
        if found < 0:
            # The first byte of a magic may be the last one of the buffer.
            return None if whole else Incomplete(max(at, size - 1), FRAME_BYTES)
        at = found
        if at + FRAME_BYTES > size:
            return None if whole else Incomplete(at, FRAME_BYTES)
        magic, crc, length, number = _FRAME.unpack_from(data, at)
        kind = _KINDS.get(magic)
        if kind is not None and length <= MAX_LINE_BYTES:
            end = at + FRAME_BYTES + length
            if end > size:
                if not whole:
                    return Incomplete(at, end - at)
            elif crc32(view[at + 8 : end], _SEEDS[kind]) == crc:
                return Frame(kind, LineNumber(number), at, end)
        at += 1


@dataclass(frozen=True, slots=True)
class Taken:
    """What :func:`take_lines` found.

    Attributes:
        lines: numbered from ``wanted`` on without a gap.
        at: where in the buffer to go on.
        hole: number of the next line that is really there, where ``lines`` ends at damage.
        wanted: bytes from ``at`` on that are needed to go on; 0 when none are.
    """

    lines: list[bytes]
    at: int
    hole: LineNumber | None
    wanted: int


def take_lines(
    data: bytes,
    at: int,
    wanted: LineNumber,
    limit: LineNumber,
    *,
    whole: bool,
    max_bytes: int,
    max_lines: int,
) -> Taken:
    """Lines from a part of a segment.

    Args:
        data: the part.
        at: where in it to begin.
        wanted: number of the line to begin with; lower ones are passed over.
        limit: numbers from here on do not belong to this segment.
        whole: nothing follows ``data`` in the segment.
        max_bytes: stop before the sum of the lines passes this, but not before the first line.
        max_lines: stop after that many.
    """
    lines: list[bytes] = []
    add, unpack, checksum, view = lines.append, _FRAME.unpack_from, crc32, memoryview(data)
    magic, seed = FrameKind.LINE.value, _SEEDS[FrameKind.LINE]
    expected, size, room = int(wanted), len(data), max_bytes
    while len(lines) < max_lines:
        # The quick way: an undamaged line with the very number that is due.
        if at + FRAME_BYTES <= size:
            found, crc, length, number = unpack(data, at)
            end = at + FRAME_BYTES + length
            if (
                found == magic
                and number == expected
                and end <= size
                and checksum(view[at + 8 : end], seed) == crc
                and expected < limit
            ):
                room -= length
                if room < 0 and lines:
                    break
                add(data[at + FRAME_BYTES : end])
                expected += 1
                at = end
                continue
        frame = find_frame(data, at, whole=whole)
        if frame is None:
            return Taken(lines, size, limit if expected < limit else None, 0)
        if isinstance(frame, Incomplete):
            return Taken(lines, frame.start, None, frame.wanted)
        if frame.kind is FrameKind.LINE and expected < frame.number < limit:
            # `at` stays before the frame, so that the caller goes on with it.
            return Taken(lines, frame.start, frame.number, 0)
        # Damage before the due line was passed over, or this is a mark or an older line.
        due = frame.kind is FrameKind.LINE and expected == frame.number < limit
        at = frame.start if due else frame.end
    return Taken(lines, at, None, 0)
