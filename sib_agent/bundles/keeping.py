"""Keeps the host's bundle as the server wants it: does the steps that :mod:`.plan` names.

In a thread of its own: fetching, Falco's look and the watch take seconds, and events do not wait.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from sib_agent.bundles import plan
from sib_agent.bundles import state as states
from sib_agent.bundles.asking import Asking
from sib_agent.bundles.fetching import NotFetched
from sib_agent.bundles.freshness import Freshness, withheld
from sib_agent.bundles.state import BundleState, Trial
from sib_agent.bundles.watching import Harm, TrialWatch
from sib_agent.client import ServerBusyError, ServerUnreachableError
from sib_protocol.backoff import Backoff
from sib_protocol.errors import SibError
from sib_protocol.messages import BundleHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sib_agent.bundles.engine import Opinion
    from sib_agent.bundles.fetching import Fetched
    from sib_agent.bundles.store import BundleStore
    from sib_agent.bundles.watching import EngineView, WatchLimits
    from sib_protocol.messages import WantedBundle

_log: Final = logging.getLogger(__name__)
_LONGEST_TURN: Final = 900.0
_REST_SECONDS: Final = 60.0
_WATCH_SECONDS: Final = 1.0


class Engine(Protocol):
    """What is asked of Falco."""

    @property
    def program(self) -> Path | None:
        """Where it is, if it is."""
        ...

    def look(self) -> EngineView | None:
        """What runs."""
        ...

    def validate(self, files: Sequence[Path]) -> Opinion:
        """What it thinks of rule files."""
        ...


class Source(Protocol):
    """Where bundles come from."""

    def ask(self, known: WantedBundle | None) -> WantedBundle | None:
        """Which bundle the server wants here; the known one where that still holds.

        Raises:
            SibError: it did not answer.
        """
        ...

    def fetch(self, wanted: WantedBundle) -> Fetched | NotFetched:
        """Fetch and prove a bundle."""
        ...

    def refresh(self) -> NotFetched | None:
        """Fetch and prove what is signed now, and no bundle; ``None`` where that went well."""
        ...


class BundleKeeper:
    """One thread's work; :meth:`told` and :meth:`health` are for others.

    Args:
        store: bundles on disk.
        engine: Falco.
        source: the server.
        lines: how many events were taken from Falco so far.
        limits: how bundles are watched.
        trust: SHA-256 of the root that is pinned now, hex; empty without one.
        on_news: called when there is something to report.
        steady: seconds, monotonic.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        store: BundleStore,
        engine: Engine,
        source: Source,
        lines: Callable[[], int],
        *,
        limits: WatchLimits,
        trust: Callable[[], str],
        on_news: Callable[[], None] = lambda: None,
        steady: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._engine = engine
        self._source = source
        self._lines = lines
        self._limits = limits
        self._on_news = on_news
        self._steady = steady
        self._clock = clock
        self._draw = random.SystemRandom()
        self._backoff = Backoff(first=5.0, longest=600.0)
        self._not_before = 0.0
        self._turn = 0.0
        self._wanted: WantedBundle | None = None
        self._digests: dict[int, dict[str, str]] = {}
        self._watch: TrialWatch | None = None
        self._counted = (steady(), lines())
        self._view = ""
        self._asking = Asking.begun(steady())
        self._freshness = Freshness()
        self._withheld: str | None = None
        self._wake = threading.Event()
        self._trust = trust
        self._state = BundleState()

    @property
    def state(self) -> BundleState:
        """What is remembered."""
        return self._state

    def open(self) -> None:
        """Take up what is on disk; once, before the first step.

        Raises:
            OSError: it cannot be read or written.
        """
        self._store.prepare()
        self._keep(states.started(self._store.load(), self._trust()))
        trial = self._state.trial
        kept = {self._state.directory, *((trial.version, trial.previous) if trial else ())}
        # Also what was fetched and not tried: its digests went with the process that knew them.
        if self._store.disk().current in kept:
            self._store.sweep(kept)
        self._see()

    def told(self, wanted: WantedBundle | None, report_in: float) -> None:
        """Tell what a health report was answered; from any thread.

        Args:
            wanted: the bundle that the server wants here, if it wants one.
            report_in: when the next report is made, seconds from now.
        """
        self._asking = self._asking.told(self._steady(), report_in, self._draw)
        self._want(wanted)

    def _want(self, wanted: WantedBundle | None) -> None:
        if wanted is None:
            return
        known = self._wanted
        if known is None or known.version != wanted.version:
            wait = min(max(0.0, wanted.wait_seconds), _LONGEST_TURN)
            self._turn = self._steady() + wait
            self._not_before = 0.0
        self._wanted = wanted
        self._wake.set()

    def health(self) -> BundleHealth:
        """How the host stands; from any thread."""
        state = self._state
        trying = state.trial.version if state.trial is not None else None
        return BundleHealth(
            state.version, state.ended, trying, self._view, state.failed, self._withheld
        )

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; the one who tells wakes it, too.

        What fails for the disk's sake is tried again: events go on meanwhile.
        """
        opened = False
        while not stop.is_set():
            try:
                if not opened:
                    self.open()
                opened = True
                pause = self.turn()
            except (OSError, SibError) as error:
                reason = error.strerror if isinstance(error, OSError) else error.problem
                _log.error("bundles: %s", error)
                self._view = f"bundles cannot be kept: {reason or error}"
                self._backoff = self._backoff.failed()
                pause = self._backoff.wait(self._draw)
            self._wake.wait(pause)
            self._wake.clear()

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._wake.set()

    def turn(self) -> float:
        """Ask if it is time, and do the next step. Returns how long there is nothing to do."""
        if self._state.trial is not None:
            # What comes of it is watched, and whatever is wanted now comes after it.
            return self.step()
        if self._steady() >= self._asking.due:
            self._ask()
        return min(self.step(), self._asking.due - self._steady())

    def _ask(self) -> None:
        known = self._wanted
        try:
            wanted = self._source.ask(known)
        except (ServerBusyError, ServerUnreachableError) as error:
            at_least = (error.retry_after or 0.0) if isinstance(error, ServerBusyError) else 0.0
            self._asking = self._asking.failed(self._steady(), self._draw, at_least=at_least)
        except SibError as error:
            _log.debug("the server does not say which bundle it wants: %s", error.problem)
            self._asking = self._asking.refused(self._steady(), self._draw)
        else:
            self._asking = self._asking.answered(self._steady(), self._draw)
            # A health answer that came meanwhile is not older.
            if self._wanted is known:
                self._want(wanted)

    def step(self) -> float:
        """Do the next step. Returns how long there is nothing to do after it, seconds."""
        if self._state.trial is None:
            # Another one where the host was enrolled anew meanwhile.
            self._keep(states.started(self._state, self._trust()))
        state = self._state
        step = plan.next_step(state, self._store.disk(), self._wanted)
        match step:
            case plan.Rest():
                self._see()
                self._stay_fresh()
                return _REST_SECONDS
            case plan.Point(directory=directory):
                self._store.point(directory)
                if state.trial is None:
                    self._store.sweep({directory})
            case plan.Lost():
                _log.error("bundles: the files of bundle %s are gone", state.in_force())
                self._store.prepare()
                self._keep(
                    BundleState(
                        trust=state.trust, floor=state.floor, bad=state.bad, failed=state.failed
                    )
                )
            case plan.Began():
                self._keep(states.switched(state))
            case plan.Watch():
                return self._do_watch()
            case plan.Reverted():
                self._end(states.reverted(state, self._now()))
            case plan.RefuseOlder(version=version):
                reason = f"it is older than bundle {max(state.floor, state.version)}, seen before"
                self._refuse(version, reason, lasting=False)
                return _REST_SECONDS
            case plan.Fetch(wanted=wanted):
                return self._do_fetch(wanted)
            case plan.Try(version=version):
                self._do_try(version)
        return 0.0

    def _do_fetch(self, wanted: WantedBundle) -> float:
        wait = max(self._turn, self._not_before) - self._steady()
        if wait > 0:
            return min(wait, _REST_SECONDS)
        self._counted = (self._steady(), self._lines())
        found = self._source.fetch(wanted)
        if isinstance(found, NotFetched):
            self._backoff = self._backoff.failed()
            pause = self._backoff.wait(self._draw)
            self._not_before = self._steady() + pause
            _log.warning("bundle %s was not fetched: %s", wanted.version, found.reason)
            if found.proven_bad:
                self._refuse(wanted.version, found.reason, lasting=found.lasting)
            return pause
        self._backoff = self._backoff.succeeded()
        self._digests[wanted.version] = found.digests
        return 0.0

    def _stay_fresh(self) -> None:
        trust = self._trust()
        if not trust:
            return
        held = self._store.held(trust)
        self._freshness = self._freshness.seen(held, self._clock(), self._steady(), self._draw)
        if self._steady() >= self._freshness.due:
            found = self._source.refresh()
            if found is None:
                self._freshness, held = Freshness(), self._store.held(trust)
            else:
                unproven = found.reason if found.proven_bad else None
                self._freshness = self._freshness.failed(
                    self._steady(), self._draw, unproven=unproven
                )
        before = self._withheld
        self._withheld = withheld(held, self._wanted, self._freshness.problem)
        if self._withheld not in {None, before}:
            _log.error("new bundles may be kept from this host: %s", self._withheld)
            self._on_news()

    def _do_try(self, version: int) -> None:
        state = self._state
        digests = self._digests.pop(version, {})
        if digests and digests == state.digests:
            self._end(states.adopted(state, version, self._now()))
            return
        opinion = self._engine.validate(self._store.rule_files(version))
        if opinion.reason is not None:
            self._refuse(version, opinion.reason, lasting=True)
            self._store.remove(version)
            return
        engine = self._see()
        since, count = self._counted
        elapsed = self._steady() - since
        rate = (self._lines() - count) / elapsed if elapsed >= 1.0 else 0.0
        trial = Trial(
            version,
            state.directory,
            digests,
            engine=engine.run if engine is not None else "",
            rate=max(0.0, rate),
        )
        _log.info("bundle %s goes on trial", version)
        self._keep(states.prepared(state, trial))

    def _do_watch(self) -> float:
        trial = self._state.trial
        assert trial is not None  # noqa: S101  (there is nothing else to watch)
        if self._watch is None or self._watch.trial.version != trial.version:
            rules = self._store.rules(trial.version)
            self._watch = TrialWatch(trial, rules, self._limits, self._steady())
        verdict = self._watch.see(self._steady(), self._see(), self._lines())
        if verdict is None:
            return _WATCH_SECONDS
        self._watch = None
        if isinstance(verdict, Harm):
            _log.error("bundle %s is taken back: %s", trial.version, verdict.reason)
            self._keep(states.reverting(self._state, verdict.reason))
        else:
            accepted = states.accepted(self._state, verdict.outcome, verdict.note, self._now())
            self._end(accepted)
        return 0.0

    def _see(self) -> EngineView | None:
        found = self._engine.look()
        if found is not None:
            self._view = f"falco {found.version}"
        else:
            self._view = "falco does not answer" if self._engine.program else "no engine"
        return found

    def _refuse(self, version: int, reason: str, *, lasting: bool) -> None:
        before = self._state.ended
        self._keep(states.refused(self._state, version, reason, self._now(), lasting=lasting))
        if self._state.ended != before:
            _log.error("bundle %s is refused: %s", version, reason)
            self._on_news()

    def _end(self, state: BundleState) -> None:
        before = self._state.directory
        self._keep(state)
        if state.ended is not None:
            _log.info(
                "bundle %s: %s, %s",
                *(state.ended.version, state.ended.outcome.value, state.ended.reason),
            )
        # The one before stays: it is what a person would go back to by hand.
        self._store.sweep({state.directory, before})
        self._on_news()

    def _keep(self, state: BundleState) -> None:
        if state != self._state:
            self._store.save(state)
            self._state = state

    def _now(self) -> int:
        return int(self._clock())
