"""Cutting a stream of bytes into event lines. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Partial:
    """The beginning of a line whose newline has not come yet.

    Attributes:
        kept: its bytes, up to the longest that a line may be.
        over: it is longer than that, and the rest of it is being skipped.
    """

    kept: bytes = b""
    over: bool = False

    def grow(self, data: bytes, limit: int) -> Partial:
        """The same line after more of it came; ``data`` holds no newline."""
        room = limit - len(self.kept)
        return Partial(self.kept + data[:room], self.over or len(data) > room)


NOTHING: Final = Partial()


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of a piece of the stream.

    Attributes:
        lines: complete lines without their newlines; empty ones are left out.
        partial: what is left behind the last newline.
        end: bytes of the piece up to and with its last newline; 0 without one.
        shortened: how many of ``lines`` were longer than allowed.
    """

    lines: list[bytes]
    partial: Partial
    end: int
    shortened: int


def cut_lines(partial: Partial, data: bytes, limit: int) -> Cut:
    """Cut the next piece of a stream into lines.

    Nothing but the newline is taken off: invalid UTF-8, NUL bytes and carriage returns stay.

    Args:
        partial: what was left of the pieces before.
        data: the piece.
        limit: the longest that a line may be, bytes; the rest of a longer one is dropped.
    """
    end = data.rfind(b"\n") + 1
    if end == 0:
        return Cut([], partial.grow(data, limit), 0, 0)
    pieces = data[: end - 1].split(b"\n")
    whole = partial.grow(pieces[0], limit)
    pieces[0] = whole.kept
    shortened = int(whole.over)
    if len(data) > limit and max(map(len, pieces)) > limit:
        shortened += sum(len(piece) > limit for piece in pieces)
        pieces = [piece[:limit] for piece in pieces]
    lines = [piece for piece in pieces if piece]
    return Cut(lines, NOTHING.grow(data[end:], limit), end, shortened)
