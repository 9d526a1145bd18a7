"""Keeps bundles going in a running server: signs, serves what is published, judges rollouts."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import SibError
from sib_server.detection.bundles.publishing import Publisher
from sib_server.detection.bundles.rollout import Advance, Stop, judge_rollout
from sib_server.detection.bundles.shelf import load_shelf, repository_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sib_server.detection.bundles.desk import BundleDesk
    from sib_server.detection.bundles.repository import Repository
    from sib_server.detection.bundles.rollout import HostStanding, RolloutPolicy

_log: Final = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0
_JUDGE_SECONDS: Final = 5.0
_SIGN_SECONDS: Final = 60.0


class BundleKeeper:
    """One task of the server.

    Args:
        repository: need not be made yet.
        desk: is given what is served.
        standings: how all hosts stand; called in a thread.
        policy: what rollouts are judged by.
        keep: how many releases can be rolled back to.
    """

    def __init__(
        self,
        repository: Repository,
        desk: BundleDesk,
        standings: Callable[[], Sequence[HostStanding]],
        policy: RolloutPolicy,
        *,
        keep: int = 20,
    ) -> None:
        self._repository = repository
        self._desk = desk
        self._standings = standings
        self._policy = policy
        self._publisher = Publisher(repository, policy, keep=keep)
        self._sign_at = 0.0
        self._judge_at = 0.0
        self.problem: str | None = None

    async def run(self) -> None:
        """Until it is cancelled. What fails is said once and tried again."""
        while True:
            await self.step()
            await asyncio.sleep(_LOOK_SECONDS)

    async def step(self) -> None:
        """Everything that is due."""
        try:
            await asyncio.to_thread(self._work, time.monotonic())
        except (SibError, OSError) as error:
            problem = error.problem if isinstance(error, SibError) else str(error)
            if problem != self.problem:
                _log.error("bundles: %s", problem)
            self.problem = problem
        else:
            self.problem = None

    def _work(self, now: float) -> None:
        # First what hosts need at once: a key that is missing must not keep them from the rest.
        if repository_mark(self._repository) != self._desk.shelf.mark:
            self._desk.shelf = load_shelf(self._repository)
        if not self._repository.exists:
            return
        if now >= self._judge_at and self._desk.shelf.releases.rollout.candidate is not None:
            self._judge_at = now + _JUDGE_SECONDS
            self._judge()
        if now >= self._sign_at:
            self._sign_at = now + _SIGN_SECONDS
            with self._repository.locked():
                signed = self._repository.refresh()
            if signed:
                _log.info("bundles: signed anew: %s", ", ".join(signed))

    def _judge(self) -> None:
        rollout = self._desk.shelf.releases.rollout
        verdict = judge_rollout(rollout, self._standings(), time.time_ns(), self._policy)
        if isinstance(verdict, Stop) and rollout.candidate is not None:
            release = self._publisher.stop(rollout.candidate, verdict.reason)
            if release is not None:
                _log.error(
                    "the rollout of bundle %s is stopped: %s; bundle %s brings back %s",
                    *(rollout.candidate, verdict.reason, release.version, release.restores),
                )
        elif isinstance(verdict, Advance) and self._publisher.go_on(verdict.rollout):
            _log.info(
                "bundle %s: rollout is now at stage %s",
                *(rollout.candidate, verdict.rollout.stage.value),
            )
