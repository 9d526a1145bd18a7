"""What comes of a bundle on trial: whether Falco came back with it and stays quiet. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sib_protocol.messages import BundleOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_agent.bundles.state import Trial

_STORM_SECONDS: Final = 3.0
_DOWN_SECONDS: Final = 6.0


@dataclass(frozen=True, slots=True)
class EngineView:
    """What a running Falco says of itself.

    Attributes:
        run: changes whenever it has loaded its rules anew.
        version: its own.
        rules: (file name, SHA-256) of each rule file that it has loaded.
    """

    run: str
    version: str
    rules: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How patient the watch is.

    Attributes:
        comeback_seconds: Falco has this long to load the new rules.
        probation_seconds: from then on, how long it has to stay well.
        storm: events a second that are too many, over a few seconds.
    """

    comeback_seconds: float
    probation_seconds: float
    storm: float


@dataclass(frozen=True, slots=True)
class Harm:
    """The bundle has to go."""

    reason: str


@dataclass(frozen=True, slots=True)
class Proven:
    """The bundle may stay."""

    outcome: BundleOutcome
    note: str


@dataclass(slots=True)
class TrialWatch:
    """Watches one trial, told every second or so what is seen.

    Attributes:
        trial: what is watched.
        rules: (file name, SHA-256) of the bundle's rule files.
        limits: how patient it is.
        began: when, seconds, monotonic.
    """

    trial: Trial
    rules: Mapping[str, str]
    limits: WatchLimits
    began: float
    _loaded: float | None = None
    _run: str = ""
    _seen: float | None = None
    _counts: deque[tuple[float, int]] = field(default_factory=deque)

    def see(self, now: float, engine: EngineView | None, lines: int) -> Harm | Proven | None:
        """What is to be said now; ``None``: nothing yet.

        Args:
            now: seconds, monotonic.
            engine: Falco, if it answers.
            lines: events that were taken from it so far.
        """
        storm = self._storm(now, lines)
        if storm is not None:
            return storm
        if not self.trial.engine:
            return self._unwatched(now)
        if self._loaded is None:
            return self._come_back(now, engine)
        return self._stay(now, engine, self._loaded)

    def _storm(self, now: float, lines: int) -> Harm | None:
        self._counts.append((now, lines))
        while len(self._counts) > 2 and now - self._counts[1][0] >= _STORM_SECONDS:
            self._counts.popleft()
        since, count = self._counts[0]
        if now - since < _STORM_SECONDS:
            return None
        rate = (lines - count) / (now - since)
        # A host that was loud before is not loud because of the bundle.
        if rate < max(self.limits.storm, 2 * self.trial.rate):
            return None
        return Harm(f"its rules fired {rate:.0f} events a second")

    def _unwatched(self, now: float) -> Proven | None:
        if now - self.began <= _STORM_SECONDS:
            return None
        return Proven(BundleOutcome.UNWATCHED, "no Falco of SIB's answered before it came")

    def _come_back(self, now: float, engine: EngineView | None) -> Harm | None:
        if engine is not None and engine.run != self.trial.engine and self._has_rules(engine):
            self._loaded = self._seen = now
            self._run = engine.run
            return None
        if now - self.began < self.limits.comeback_seconds:
            return None
        how = "did not come back" if engine is None else "did not load its rules"
        return Harm(f"Falco {how} within {self.limits.comeback_seconds:.0f} s")

    def _stay(self, now: float, engine: EngineView | None, loaded: float) -> Harm | Proven | None:
        if engine is not None:
            if engine.run != self._run:
                return Harm(f"Falco ended and started again {now - loaded:.0f} s after loading it")
            self._seen = now
        elif now - (self._seen or loaded) >= _DOWN_SECONDS:
            return Harm(f"Falco went down {now - loaded:.0f} s after loading it")
        if engine is None or now - loaded < self.limits.probation_seconds:
            return None
        return Proven(BundleOutcome.ACCEPTED, f"Falco {engine.version} runs with it")

    def _has_rules(self, engine: EngineView) -> bool:
        return set(self.rules.items()) <= engine.rules
