"""What a host is told of bundles: which one it shall have, and when to come for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sib_protocol.messages import WantedBundle
from sib_server.detection.bundles.pacing import PullPacer
from sib_server.detection.bundles.rollout import wanted_release
from sib_server.detection.bundles.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_protocol.messages import BundleHealth
    from sib_server.fleet.policy import AuthenticatedHost


class BundleDesk:
    """Answers for one server.

    Args:
        pulls_per_second: how many hosts are sent for a bundle each second.
        steady: seconds, monotonic.
    """

    def __init__(
        self, pulls_per_second: float, *, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._pacer = PullPacer(pulls_per_second)
        self._steady = steady
        self._lock = threading.Lock()
        self.shelf = Shelf()

    def root(self) -> str | None:
        """The root by which bundles are verified, JSON; ``None`` if there are no bundles."""
        return self.shelf.root_text()

    def named(self, host: AuthenticatedHost) -> WantedBundle | None:
        """The bundle that a host shall have, if there is one; without its turn."""
        release = wanted_release(self.shelf.releases, host.host_id)
        if release is None:
            return None
        return WantedBundle(release.version, release.targets_for(host.tags))

    def in_turn(self, host: AuthenticatedHost, wanted: WantedBundle) -> WantedBundle:
        """The same, with how long the host shall wait before it fetches it."""
        with self._lock:
            wait = self._pacer.wait(host.host_id, wanted.version, self._steady())
        return replace(wanted, wait_seconds=round(wait, 2))

    def wanted(self, host: AuthenticatedHost, has: BundleHealth | None) -> WantedBundle | None:
        """What a health report is answered; ``None`` also for a host that knows of no bundles.

        Args:
            host: who reports.
            has: what it reported; one that has the bundle, or had its try, needs no turn.
        """
        wanted = self.named(host)
        if wanted is None or has is None:
            return None
        tried = has.ended.version if has.ended is not None else None
        if wanted.version in {has.version, tried, has.trying}:
            return wanted
        return self.in_turn(host, wanted)
