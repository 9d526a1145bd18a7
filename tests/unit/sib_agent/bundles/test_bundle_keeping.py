"""A host's bundles through crashes at any write, against a model of what may be in force."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sib_agent.bundles import store as store_module
from sib_agent.bundles.asking import Asking
from sib_agent.bundles.engine import Opinion
from sib_agent.bundles.fetching import Fetched, NotFetched
from sib_agent.bundles.keeping import BundleKeeper
from sib_agent.bundles.state import MOST_INTERRUPTIONS, Phase
from sib_agent.bundles.store import BundleStore
from sib_agent.bundles.watching import EngineView, WatchLimits
from sib_agent.client import ServerBusyError, ServerRefusedError, ServerUnreachableError
from sib_protocol.errors import SibError
from sib_protocol.messages import BundleOutcome, Refusal, WantedBundle

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
LIMITS = WatchLimits(comeback_seconds=30.0, probation_seconds=20.0, storm=1000.0)


def current(place: Path) -> str:
    return str((place / "bundles" / "current").readlink())


class CrashError(Exception):
    pass


@dataclass
class World:
    """Time, Falco and the server around one host; Falco loads what ``current`` names."""

    place: Path
    now: float = 1000.0
    lines: int = 0
    # What each version's rules do: fine, invalid, crash, storm.
    kinds: dict[int, str] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    installed: bool = True
    loaded: str | None = "0"
    run: int = 1
    # What the server says when it is asked; None: nothing changed.
    answers: WantedBundle | SibError | None = None
    asked: list[WantedBundle | None] = field(default_factory=list)
    renew: Callable[[], NotFetched | None] = lambda: None
    refreshed: int = 0
    # How the next fetches end; after them they bring what there is.
    give: list[NotFetched] = field(default_factory=list)

    @property
    def store(self) -> BundleStore:
        return BundleStore(self.place / "bundles", self.place / "state")

    # the engine
    @property
    def program(self) -> Path | None:
        return Path("/falco") if self.installed else None

    def _kind(self) -> str:
        target = current(self.place)
        return self.kinds.get(int(target), "fine")

    def look(self) -> EngineView | None:
        if not self.installed:
            return None
        target = current(self.place)
        if self.loaded != target:
            self.loaded, self.run = target, self.run + 1
        if self._kind() == "crash":
            return None
        rules = self.store.rules(int(target))
        return EngineView(str(self.run), "0.44.1", frozenset(rules.items()))

    def validate(self, files: Sequence[Path]) -> Opinion:
        if not self.installed:
            return Opinion(looked=False)
        text = files[0].read_bytes() if files else b""
        return Opinion(looked=True, reason="bad.yaml: no" if b"invalid" in text else None)

    # the server
    def ask(self, known: WantedBundle | None) -> WantedBundle | None:
        self.asked.append(known)
        if self.answers is None:
            return known
        if isinstance(self.answers, SibError):
            raise self.answers
        return self.answers

    def refresh(self) -> NotFetched | None:
        self.refreshed += 1
        return self.renew()

    def fetch(self, wanted: WantedBundle) -> Fetched | NotFetched:
        if self.give:
            return self.give.pop(0)
        content = self.contents[wanted.version]
        self.store.stage(wanted.version, {"rules/10-own.yaml": content})
        return Fetched({"base": content.hex()})

    def tick(self, seconds: float) -> None:
        self.now += seconds
        with suppress(OSError):
            rate = 5000 if self.installed and self._kind() == "storm" else 1
            self.lines += int(rate * seconds)

    def keeper(self, trust: str = "root") -> BundleKeeper:
        made = BundleKeeper(
            self.store,
            self,
            self,
            lambda: self.lines,
            limits=LIMITS,
            trust=lambda: trust,
            steady=lambda: self.now,
            clock=lambda: self.now,
        )
        made.open()
        return made


class BundleMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path(tempfile.mkdtemp(prefix="sib-bundles-", dir=MEMORY)))
        self.keeper: BundleKeeper | None = None
        self.wanted = 0
        self.highest = 0
        self.given_up: set[int] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.world.place)

    @initialize()
    def begin(self) -> None:
        self.keeper = self.world.keeper()

    @rule(kind=st.sampled_from(["fine", "fine", "invalid", "crash", "storm", "same"]))
    def publish(self, kind: str) -> None:
        before = self.world.contents.get(self.wanted, b"")
        self.wanted += 1
        self.world.kinds[self.wanted] = "fine" if kind == "same" else kind
        text = (
            before
            if kind == "same" and b"invalid" not in before
            else b"%d %s"
            % (
                self.wanted,
                kind.encode(),
            )
        )
        if kind == "same":
            self.world.kinds[self.wanted] = self.world.kinds.get(self.wanted - 1, "fine")
        self.world.contents[self.wanted] = text

    @rule(installed=st.booleans())
    def falco_comes_and_goes(self, installed: bool) -> None:
        self.world.installed = installed

    @rule(steps=st.integers(1, 40), crash=st.none() | st.integers(0, 12))
    def work(self, steps: int, crash: int | None) -> None:
        """Some steps; with a crash before the n-th change of the disk."""
        left = [crash]

        def dying(real: Any) -> Any:
            def change(*arguments: Any, **named: Any) -> Any:
                if left[0] is not None:
                    if left[0] == 0:
                        raise CrashError
                    left[0] -= 1
                return real(*arguments, **named)

            return change

        names = ("write_atomic", "write_synced", "sync_directory")
        patches = [
            mock.patch.object(store_module, name, dying(getattr(store_module, name)))
            for name in names
        ]
        patches += [
            mock.patch.object(Path, name, dying(getattr(Path, name)))
            for name in ("rename", "replace", "symlink_to")
        ]
        for patch in patches:
            patch.start()
        try:
            if self.keeper is None:
                self.keeper = self.world.keeper()
            if self.wanted:
                self.keeper.told(WantedBundle(self.wanted, (f"{self.wanted}.base.tar.gz",)), 26.0)
            for _ in range(steps):
                pause = self.keeper.step()
                self.world.tick(min(pause, 2.0))
        except CrashError:
            self.keeper = None
        finally:
            for patch in patches:
                patch.stop()

    @rule()
    def dies_and_is_started(self) -> None:
        self.keeper = self.world.keeper()

    @invariant()
    def what_is_in_force_is_whole(self) -> None:
        bundles = self.world.place / "bundles"
        if not (bundles / "current").is_symlink():
            return
        target = int(current(self.world.place))
        assert (bundles / "current" / "rules").is_dir()
        files = list((bundles / "current" / "rules").iterdir())
        if target:
            assert [file.read_bytes() for file in files] == [self.world.contents[target]]
        else:
            assert files == []
        state = self.world.store.load()
        # Nothing that Falco refused is ever in force where it could look.
        if state.trial is None and self.world.kinds.get(state.version) == "invalid":
            assert state.ended is not None
        assert state.floor >= self.highest
        self.highest = state.floor
        # What was given up is given up for ever.
        assert self.given_up <= set(state.bad)
        self.given_up = set(state.bad)
        assert state.version not in state.bad

    @rule()
    def left_alone_it_comes_to_rest(self) -> None:
        """Without further crashes it ends, with the wanted bundle or without a bad one."""
        self.keeper = keeper = self.world.keeper()
        if self.wanted:
            keeper.told(WantedBundle(self.wanted, (f"{self.wanted}.base.tar.gz",)), 26.0)
        for _ in range(400):
            pause = keeper.step()
            self.world.tick(min(pause, 2.0))
            if pause >= 60.0:
                break
        else:
            raise AssertionError("it never rests")
        state = keeper.state
        assert state.trial is None
        assert current(self.world.place) == str(state.directory)
        if self.wanted:
            assert state.version == self.wanted or self.wanted in state.bad
        if self.world.installed and state.version == self.wanted and state.ended is not None:
            bad = self.world.kinds.get(state.version) in {"crash", "storm"}
            unwatched = state.ended.outcome is BundleOutcome.UNWATCHED
            adopted = "in force already" in state.ended.reason
            assert not bad or unwatched or adopted


TestBundles = BundleMachine.TestCase
TestBundles.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def settle(world: World, keeper: BundleKeeper, version: int, kind: str = "fine") -> None:
    world.kinds[version] = kind
    world.contents.setdefault(version, f"{version} {kind}".encode())
    keeper.told(WantedBundle(version, (f"{version}.base.tar.gz",)), 26.0)
    for _ in range(400):
        pause = keeper.step()
        if pause >= 60.0:
            return
        world.tick(min(pause, 1.0))
    raise AssertionError("it never rests")


def test_a_good_bundle_is_proven_and_the_one_before_is_kept(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    settle(world, keeper, 2)
    settle(world, keeper, 3)
    health = keeper.health()
    assert (health.version, health.engine) == (3, "falco 0.44.1")
    assert health.ended is not None
    assert health.ended.outcome is BundleOutcome.ACCEPTED
    assert "Falco 0.44.1 runs with it" in health.ended.reason
    assert {path.name for path in (world.place / "bundles").iterdir()} == {"0", "2", "3", "current"}


@pytest.mark.parametrize(
    ("kind", "outcome", "reason"),
    [
        ("invalid", BundleOutcome.REFUSED, "bad.yaml: no"),
        ("crash", BundleOutcome.ROLLED_BACK, "Falco did not come back within 30 s"),
        ("storm", BundleOutcome.ROLLED_BACK, "its rules fired 5000 events a second"),
    ],
)
def test_a_bad_bundle_is_given_up_for_ever(
    world: World, kind: str, outcome: BundleOutcome, reason: str
) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    settle(world, keeper, 2, kind)
    ended = keeper.health().ended
    assert ended is not None
    assert (ended.version, ended.outcome, ended.reason) == (2, outcome, reason)
    assert keeper.health().version == 1
    again = world.keeper()
    with mock.patch.object(world, "fetch", side_effect=AssertionError("it was tried again")):
        settle(world, again, 2, kind)
    settle(world, again, 3)
    assert again.state.version == 3


def test_an_older_bundle_is_refused_and_said_once(world: World) -> None:
    news: list[int] = []
    keeper = world.keeper()
    keeper._on_news = lambda: news.append(1)
    settle(world, keeper, 5)
    before = len(news)
    for _ in range(3):
        settle(world, keeper, 4)
    ended = keeper.health().ended
    assert ended is not None
    assert ended.reason == "it is older than bundle 5, seen before"
    assert (keeper.state.version, len(news)) == (5, before + 1)


def test_without_falco_it_is_in_force_and_said_so(world: World) -> None:
    world.installed = False
    keeper = world.keeper()
    settle(world, keeper, 1)
    health = keeper.health()
    assert (health.version, health.engine) == (1, "no engine")
    assert health.ended is not None
    assert health.ended.outcome is BundleOutcome.UNWATCHED


def test_the_same_rules_under_a_new_number_disturb_nobody(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    run = world.run
    world.contents[2] = world.contents[1]
    settle(world, keeper, 2)
    assert (keeper.state.version, keeper.state.directory, world.run) == (2, 1, run)
    settle(world, keeper, 3)
    assert (keeper.state.version, keeper.state.directory) == (3, 3)


def test_a_trial_that_keeps_taking_the_host_down_is_ended(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    world.contents[2] = b"2"
    for _ in range(MOST_INTERRUPTIONS + 1):
        keeper.told(WantedBundle(2, ("2.base.tar.gz",)), 26.0)
        for _ in range(6):
            keeper.step()
        assert keeper.state.trial is not None
        assert keeper.state.trial.phase is Phase.WATCHED
        assert keeper.health().trying == 2
        keeper = world.keeper()
    settle(world, keeper, 2)
    ended = keeper.health().ended
    assert ended is not None
    assert "went down 3 times while it was on trial" in ended.reason
    assert keeper.state.version == 1


def test_another_server_begins_anew(world: World) -> None:
    settle(world, world.keeper(), 7)
    keeper = world.keeper(trust="another root")
    assert keeper.health().version == 0
    keeper.step()
    assert current(world.place) == "0"
    # Its bundle of the same number is fetched, and not taken from what the old server left.
    world.contents[7] = b"another's"
    settle(world, keeper, 7)
    assert (world.place / "bundles" / "current" / "rules" / "10-own.yaml").read_bytes() == (
        b"another's"
    )


def test_files_that_vanish_are_fetched_again(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    shutil.rmtree(world.place / "bundles" / "1")
    settle(world, keeper, 1)
    assert keeper.state.version == 1
    assert (world.place / "bundles" / "current" / "rules").is_dir()
    (world.place / "state" / "state.json").write_text("{damaged")
    assert world.keeper().state.version == 0


def test_it_waits_for_its_turn_and_after_failures(world: World) -> None:
    keeper = world.keeper()
    world.contents[1] = b"1"
    wanted = WantedBundle(1, ("1.base.tar.gz",), wait_seconds=45.0)
    keeper.told(wanted, 26.0)
    assert keeper.step() == 45.0
    world.tick(10)
    keeper.told(WantedBundle(1, ("1.base.tar.gz",), wait_seconds=44.0), 26.0)
    assert keeper.step() == 35.0
    world.tick(35)
    answers = [
        NotFetched("the server is away"),
        NotFetched("not signed", proven_bad=True),
        NotFetched("a bomb", proven_bad=True, lasting=True),
    ]
    world.give = answers
    pause = keeper.step()
    assert pause > 0
    assert keeper.health().ended is None
    assert keeper.step() > 0
    assert len(answers) == 2
    world.tick(60)
    keeper.step()
    ended = keeper.health().ended
    assert ended is not None
    assert (ended.outcome, ended.reason, keeper.state.bad) == (
        BundleOutcome.UNPROVEN,
        "not signed",
        (),
    )
    world.tick(600)
    keeper.step()
    assert keeper.state.bad == (1,)
    assert keeper.step() == 60.0
    keeper.told(None, 26.0)


def test_why_one_was_not_taken_outlives_the_one_that_replaced_it(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    assert keeper.health().failed is None
    settle(world, keeper, 2, "invalid")
    # What a server publishes when it stops a rollout: the rules of before, under a new number.
    world.contents[3] = world.contents[1]
    settle(world, keeper, 3)
    health = world.keeper().health()
    assert health.ended is not None
    assert health.failed is not None
    assert (health.ended.version, health.failed.version) == (3, 2)
    assert health.failed.outcome is BundleOutcome.REFUSED


def test_a_disk_that_fails_is_tried_again_and_said(world: World) -> None:
    keeper = world.keeper()
    stop = threading.Event()
    calls = [0]

    def failing() -> float:
        calls[0] += 1
        if calls[0] == 1:
            raise OSError(28, "No space left on device")
        stop.set()
        return 0.0

    with mock.patch.object(keeper, "step", failing):
        thread = threading.Thread(target=keeper.run, args=(stop,))
        thread.start()
        end = time.monotonic() + 10
        while calls[0] < 2 and time.monotonic() < end:
            keeper.wake()
            time.sleep(0.01)
        thread.join(10)
    assert calls[0] == 2
    assert keeper.health().engine == "bundles cannot be kept: No space left on device"


def test_what_is_remembered_is_readable(world: World) -> None:
    settle(world, world.keeper(), 1)
    kept = json.loads((world.place / "state" / "state.json").read_text())
    assert (kept["version"], kept["ended"]["outcome"]) == (1, "accepted")


def named(version: int) -> WantedBundle:
    return WantedBundle(version, (f"{version}.base.tar.gz",))


def test_a_bundle_is_taken_though_no_report_was_answered(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    assert world.asked == []
    world.contents[2], world.answers = b"2", named(2)
    begin = world.now
    while keeper.state.version != 2:
        assert world.now < begin + 120
        world.tick(max(0.5, min(keeper.turn(), 2.0)))
    # Never during a trial, whose watch it would hold up.
    assert world.asked[0] == named(1)
    assert len(world.asked) <= 2
    world.answers = None
    keeper.told(None, 26.0)
    keeper._asking = Asking(world.now)
    assert keeper.turn() > 20
    assert (world.asked[-1], keeper.state.version) == (named(2), 2)


def test_a_health_answer_that_came_while_it_asked_counts(world: World) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    world.contents[2] = b"2"

    def ask(known: WantedBundle | None) -> WantedBundle | None:
        keeper.told(named(2), 26.0)
        return known

    keeper._source.ask = ask  # type: ignore[method-assign]
    keeper._asking = Asking(world.now)
    keeper.turn()
    assert keeper._wanted == named(2)


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [
        (ServerUnreachableError("s", "away"), 2.5, 5.0),
        (ServerBusyError(503, "busy", 20.0), 20.0, 20.0),
        (ServerRefusedError(404, Refusal("no_such_route", "no")), 28.0, 60.0),
    ],
)
def test_a_server_that_does_not_say_is_left_alone(
    world: World, error: SibError, least: float, most: float
) -> None:
    keeper = world.keeper()
    settle(world, keeper, 1)
    world.answers = error
    keeper._asking = Asking(world.now)
    assert least <= keeper.turn() <= most
    assert keeper._wanted == named(1)


def hold(world: World, until: str, *versions: int) -> None:
    place = world.store.trust("root")
    place.mkdir(parents=True, exist_ok=True)
    targets: dict[str, Any] = {f"{version}.base.tar.gz": {} for version in versions}
    parts: dict[str, dict[str, Any]] = {"timestamp": {}, "targets": {"targets": targets}}
    for name, more in parts.items():
        tree = {"signed": {"expires": until, **more}, "signatures": []}
        (place / f"{name}.json").write_text(json.dumps(tree))


def test_what_was_proven_is_renewed_when_it_expires_and_a_freeze_is_told(world: World) -> None:
    news: list[int] = []
    keeper = world.keeper()
    keeper._on_news = lambda: news.append(1)
    settle(world, keeper, 1)
    assert world.refreshed == 0
    hold(world, "1970-01-01T01:00:00Z", 1)
    answers: list[NotFetched] = [
        NotFetched("the server is away"),
        NotFetched("timestamp.json is expired", proven_bad=True),
    ]

    def renew() -> NotFetched | None:
        if answers:
            return answers.pop(0)
        hold(world, "2030-01-01T00:00:00Z", 7, 8)
        return None

    world.renew = renew
    said: list[str | None] = []
    for _ in range(6 * 60):
        keeper.step()
        world.tick(60)
        withheld = keeper.health().withheld
        if not said or said[-1] != withheld:
            said.append(withheld)
    assert said == [
        None,
        "what the server has is not fresh, and hides what is newer: timestamp.json is expired",
        "the server says bundle 1, and what it signs says 7, 8",
    ]
    assert (world.refreshed, len(news)) == (3, 3)
    # Told at last, and so it was not withheld.
    settle(world, keeper, 8)
    assert keeper.health().withheld is None
    (world.store.trust("root") / "targets.json").write_text('{"signed": {"expires": 1}}')
    assert world.store.held("root") is None
    hold(world, "2030-01-01T00:00:00Z", 7)
    (world.store.trust("root") / "targets.json").write_text(
        '{"signed": {"expires": "2030-01-01T00:00:00Z", "targets": {"x": {}}}}'
    )
    assert world.store.held("root") is None
