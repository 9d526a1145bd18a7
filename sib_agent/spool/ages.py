"""How long the oldest line has been waiting. Pure: the caller reads the clocks."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_protocol.ids import LineNumber

_MOST: Final = 1024


class Ages:
    """When lines were written: a bounded number of (first line, time) pairs, thinned when full."""

    def __init__(
        self, times: Sequence[tuple[LineNumber, float]], *, wall: float, steady: float
    ) -> None:
        """Begin with what the segments say.

        Args:
            times: (first line, seconds since 1970 UTC), lowest number first.
            wall: seconds since 1970 UTC, now.
            steady: seconds of a clock that is never set, now; the one of :meth:`add`.
        """
        self._firsts = [first for first, _ in times]
        self._stride = 0.0
        # Written in the future means that the clock was put back: no age is known.
        self._times = [steady - max(0.0, wall - written) for _, written in times]
        self._thin()

    def add(self, first: LineNumber, steady: float) -> None:
        """Lines from ``first`` on were written now."""
        # A line counts as old as the last one noted before it, so an age errs upwards.
        if not self._times or steady - self._times[-1] >= self._stride:
            self._firsts.append(first)
            self._times.append(steady)
            self._thin()

    def forget(self, before: LineNumber) -> None:
        """Lines below a number do not count any more."""
        passed = bisect_right(self._firsts, before) - 1
        if passed > 0:
            del self._firsts[:passed]
            del self._times[:passed]
            self._stride = min(self._stride, self._even_stride())

    def oldest(self, steady: float) -> float:
        """Age in seconds of the oldest line that counts; too high by 1 % of it at most."""
        return max(0.0, steady - self._times[0]) if self._times else 0.0

    def _thin(self) -> None:
        while len(self._firsts) > _MOST:
            del self._firsts[1::2]
            del self._times[1::2]
            self._stride = self._even_stride()

    def _even_stride(self) -> float:
        """Seconds between notes at which half of the room covers all the time there is."""
        return (self._times[-1] - self._times[0]) / (_MOST // 2)
