"""What a spool must remember beside its segments: the stream, what is acknowledged, what is lost.

One small file with two slots that are written in turn, in place: a torn write or a flipped bit
costs one slot, and the other one is at most one acknowledgement older. Being written in place, it
needs no room on a full disk.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID
from zlib import crc32

from sib_protocol.files import write_atomic
from sib_protocol.ids import LineNumber, StreamId
from sib_protocol.messages import GapReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sib_agent.spool.records import Gap

_BODY: Final = struct.Struct("<8sQ16sQQQQ")
_CRC: Final = struct.Struct("<I")
_MAGIC: Final = b"SIBspol1"
_SLOT_DISTANCE: Final = 4096
_START: Final = LineNumber(0)


@dataclass(frozen=True, slots=True)
class SpoolState:
    """A spool's memory.

    Attributes:
        stream: the spool's stream.
        acknowledged: number of the first line that the server has not acknowledged.
        floor: lines below it were given up for the quota, unless they were acknowledged before.
        lost_quota: lines lost for the quota, told to the server and acknowledged.
        lost_damage: the same for damage.
    """

    stream: StreamId
    acknowledged: LineNumber = _START
    floor: LineNumber = _START
    lost_quota: int = 0
    lost_damage: int = 0

    def acknowledge(self, next_: LineNumber, told: Iterable[Gap]) -> SpoolState:
        """The memory after an acknowledgement; counts the told gaps that it passes."""
        lost = count_lost(told, self.acknowledged, next_)
        return replace(
            self,
            acknowledged=next_,
            lost_quota=self.lost_quota + lost[GapReason.QUOTA],
            lost_damage=self.lost_damage + lost[GapReason.DAMAGE],
        )

    def lost(self, told: Iterable[Gap], next_: LineNumber) -> Mapping[GapReason, int]:
        """Lines lost since the stream began, acknowledged or not, by reason."""
        damage = count_lost(told, self.acknowledged, next_)[GapReason.DAMAGE]
        return {
            GapReason.QUOTA: self.lost_quota + max(0, self.floor - self.acknowledged),
            GapReason.DAMAGE: self.lost_damage + damage,
        }


def count_lost(told: Iterable[Gap], first: LineNumber, next_: LineNumber) -> dict[GapReason, int]:
    """How many of the lines ``first <= n < next_`` are in a gap; each counts once."""
    lost = dict.fromkeys(GapReason, 0)
    at = int(first)
    for gap in sorted(told, key=lambda gap: (gap.first, gap.last)):
        begin, end = max(at, gap.first), min(gap.last + 1, next_)
        if begin < end:
            lost[gap.reason] += end - begin
            at = end
    return lost


def encode_slot(state: SpoolState, sequence: int) -> bytes:
    """One slot of the file."""
    body = _BODY.pack(
        _MAGIC,
        sequence,
        UUID(state.stream).bytes,
        state.acknowledged,
        state.floor,
        state.lost_quota,
        state.lost_damage,
    )
    return body + _CRC.pack(crc32(body))


def decode_slot(data: bytes) -> tuple[int, SpoolState] | None:
    """Read one slot; ``None`` when it is damaged."""
    if len(data) < _BODY.size + _CRC.size:
        return None
    magic, sequence, stream, acknowledged, floor, quota, damage = _BODY.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _BODY.size)
    if magic != _MAGIC or crc32(data[: _BODY.size]) != crc:
        return None
    return sequence, SpoolState(
        StreamId(str(UUID(bytes=stream))),
        LineNumber(acknowledged),
        LineNumber(floor),
        quota,
        damage,
    )


class StateFile:
    """The file that holds a :class:`SpoolState`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._sequence = 0

    def load(self) -> SpoolState | None:
        """What the file says; ``None`` when it is not there or both slots are damaged.

        Raises:
            OSError: it cannot be read.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        slots = [decode_slot(data[at:]) for at in (0, _SLOT_DISTANCE)]
        good = [slot for slot in slots if slot is not None]
        if not good:
            return None
        self._sequence, state = max(good, key=lambda slot: slot[0])
        return state

    def open(self, state: SpoolState) -> None:
        """Open the file for :meth:`write`, and make a state durable in it.

        Raises:
            OSError: it cannot be written.
        """
        if self._sequence == 0:
            self._create(state)
            return
        # Not anew: on a full disk the spool must still open, to be emptied.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        self.write(state, durable=True)

    def _create(self, state: SpoolState) -> None:
        """Write the file whole.

        Raises:
            OSError: it cannot be written.
        """
        slots = [encode_slot(state, turn) for turn in (1, 2)]
        self._sequence = 2
        write_atomic(
            self._path, b"".join(slot.ljust(_SLOT_DISTANCE, b"\0") for slot in slots), 0o600
        )
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, state: SpoolState, *, durable: bool) -> None:
        """Remember a state.

        Args:
            state: what to remember.
            durable: in both slots and on the disk, before anything is deleted that only an older
                state would still need; else in one slot, through a kill but not a power cut.

        Raises:
            OSError: it cannot be written.
        """
        for _ in range(2 if durable else 1):
            self._sequence += 1
            # Odd sequence numbers go to the first slot, as in _create().
            at = 0 if self._sequence % 2 else _SLOT_DISTANCE
            os.pwrite(self._descriptor, encode_slot(state, self._sequence), at)
        if durable:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
