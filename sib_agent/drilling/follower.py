"""Reading a spool from outside its daemon: lines as they are committed, with their numbers.

The daemon alone writes it. A line may be seen here a moment before it is durable; that is no harm,
since whether it is safe is asked of the server.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_agent.spool.records import FRAME_BYTES, Frame, FrameKind, decode_mark, find_frame
from sib_agent.spool.segments import list_segments
from sib_protocol.errors import FileAccessError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sib_agent.spool.segments import Segment
    from sib_protocol.ids import LineNumber, StreamId

_MOST_AT_ONCE: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SpooledLine:
    """One line of a spool.

    Attributes:
        stream: whose line.
        number: its number there.
        line: without a newline.
    """

    stream: StreamId
    number: LineNumber
    line: bytes


class SpoolFollower:
    """Follows a spool from where it ends now. Close it.

    Args:
        directory: the spool's.

    Raises:
        FileAccessError: there is no spool, or it is not ours to read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1
        self._first = -1
        self._at = 0
        self._rest = b""
        self._stream: StreamId | None = None
        segments = self._segments()
        if segments:
            self._open(segments[-1])
            # What is there already is read for the stream's name, and passed over.
            for _ in self._read():
                pass

    def new_lines(self) -> Iterator[SpooledLine]:
        """Lines that came since the last call."""
        yield from self._read()
        for segment in self._segments():
            if segment.first > self._first:
                self._open(segment)
                yield from self._read()

    def close(self) -> None:
        """Let go of the files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _segments(self) -> list[Segment]:
        try:
            return list_segments(self._directory)
        except FileNotFoundError as error:
            if not self._directory.is_dir():
                reason = "there is no spool: does sib-agent run?"
                raise FileAccessError(self._directory, reason) from error
            # One went away while they were looked at.
            return []
        except OSError as error:
            raise FileAccessError(self._directory, error.strerror or str(error)) from error

    def _open(self, segment: Segment) -> None:
        descriptor = -1
        with suppress(FileNotFoundError):
            descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor >= 0:
            self.close()
            self._descriptor, self._first = descriptor, segment.first
            self._at, self._rest = 0, b""

    def _read(self) -> Iterator[SpooledLine]:
        if self._descriptor < 0:
            return
        while data := os.pread(self._descriptor, _MOST_AT_ONCE, self._at):
            self._at += len(data)
            buffer = self._rest + data
            done = 0
            while isinstance(frame := find_frame(buffer, done, whole=False), Frame):
                done = frame.end
                if frame.kind is not FrameKind.LINE:
                    mark = decode_mark(buffer, frame)
                    self._stream = mark.stream if mark is not None else self._stream
                elif self._stream is not None:
                    line = buffer[frame.start + FRAME_BYTES : frame.end]
                    yield SpooledLine(self._stream, frame.number, line)
            self._rest = buffer[done:]
