"""When each host may fetch a new bundle, so that a whole fleet does not come at once. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sib_protocol.ids import HostId


class PullPacer:
    """Gives each host a turn; asked again, it answers the same one.

    Args:
        per_second: how many turns there are in a second.
    """

    def __init__(self, per_second: float) -> None:
        self._pause = 1.0 / per_second
        self._next = 0.0
        self._turns: dict[HostId, tuple[int, float]] = {}

    def wait(self, host_id: HostId, version: int, now: float) -> float:
        """How long a host shall wait before it fetches a version, seconds.

        Args:
            host_id: whose turn.
            version: of the bundle; another one than before is another turn.
            now: seconds, monotonic.
        """
        known, turn = self._turns.get(host_id, (0, 0.0))
        if known != version:
            turn = max(now, self._next)
            self._next = turn + self._pause
            self._turns[host_id] = (version, turn)
        return max(0.0, turn - now)
