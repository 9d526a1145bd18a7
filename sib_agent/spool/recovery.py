"""Opening what a crash, a power cut or a bad disk left of a spool."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sib_agent.spool.records import Mark, encode_commit
from sib_agent.spool.segments import (
    Segment,
    SegmentWriter,
    list_segments,
    read_first_mark,
    recover,
    segment_name,
)
from sib_agent.spool.state import SpoolState, StateFile
from sib_protocol.ids import LineNumber, StreamId, new_stream_id

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recovered:
    """A spool's content, ready to go on.

    Attributes:
        state: what is acknowledged and lost; already on the disk.
        segments: oldest first; the last one is the writer's.
        writer: of the newest segment.
        mark: of the last commit.
        times: (first line, seconds since 1970 UTC) of commits, oldest first.
    """

    state: SpoolState
    segments: list[Segment]
    writer: SegmentWriter
    mark: Mark
    times: list[tuple[LineNumber, float]]


def recover_spool(directory: Path, state_file: StateFile) -> Recovered:
    """Bring a spool's directory into order. The caller has locked it.

    A segment whose very first commit was torn off never counted, and goes. Where nothing is left,
    a new stream begins: the server would take lines under numbers it knows for repetitions.

    Raises:
        OSError: a file cannot be read or written.
    """
    for leftover in directory.glob(".state.*"):
        leftover.unlink()
    known = state_file.load()
    segments = list_segments(directory)
    while segments:
        newest = segments[-1]
        found = recover(newest.path.read_bytes(), newest.first)
        if found is not None:
            break
        newest.path.unlink()
        segments.pop()
    else:
        return _begin(directory, state_file)
    newest.size = found.size
    state = reconcile(known, found.mark, segments[0].first)
    segments = _without_given_up(segments, state.floor)
    state_file.open(state)
    times = [
        (segment.first, mark.written)
        for segment in segments[:-1]
        if (mark := read_first_mark(segment)) is not None
    ]
    writer = SegmentWriter.open(newest)
    if not found.twice:
        # Said again, so that one flipped bit cannot take it back; without room, at the next start.
        last = found.mark
        again = Mark(last.stream, last.next, last.next, time.time(), last.position)
        with suppress(OSError):
            writer.write(encode_commit((), again))
    return Recovered(state, segments, writer, found.mark, times + found.times)


def reconcile(known: SpoolState | None, mark: Mark, oldest: LineNumber) -> SpoolState:
    """The state that fits the segments. Pure.

    Args:
        known: what the state file says; ``None`` when it is lost, and then everything older than
            the oldest segment is taken for acknowledged: the server tells better.
        mark: of the last commit.
        oldest: number of the oldest line in a segment.
    """
    if known is None:
        known = SpoolState(mark.stream, oldest, oldest)
    # Where the last commits were damaged, the server may have more than is left here.
    return replace(
        known,
        acknowledged=min(known.acknowledged, mark.next),
        floor=min(known.floor, mark.next),
    )


def _without_given_up(segments: list[Segment], floor: LineNumber) -> list[Segment]:
    """Delete the segments below the floor that a crash left behind."""
    while len(segments) > 1 and segments[1].first <= floor:
        with suppress(OSError):
            segments[0].path.unlink()
        segments = segments[1:]
    return segments


def _begin(directory: Path, state_file: StateFile) -> Recovered:
    stream: StreamId = new_stream_id()
    state = SpoolState(stream)
    state_file.open(state)
    start = LineNumber(0)
    mark = Mark(stream, start, start, time.time(), None)
    writer = SegmentWriter.create(directory / segment_name(start), start, encode_commit((), mark))
    return Recovered(state, [writer.segment], writer, mark, [])
