"""The planner against a model that gives up one piece after another."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from sib_protocol.checks import Verdict
from sib_protocol.events import summarize
from sib_server.events.retention import RetentionPolicy
from sib_server.operations.disk.decision import (
    Decision,
    StoreUse,
    is_news,
    overrides,
    read_decision,
    tighten,
)
from sib_server.operations.disk.findings import judge_disk_use, judge_loki_limits
from sib_server.operations.disk.guard import decide, event, rooms_of
from sib_server.operations.disk.measure import measure_loki, measure_prometheus
from sib_server.operations.disk.metrics import DiskCollector
from sib_server.operations.disk.plan import Piece, Room, Store, find_cut, gather, make_plan, pinned
from sib_server.operations.disk.settings import DECISION, HOUR_NS, DiskSettings

NOW = 1_000 * 24 * HOUR_NS
DAY = 24 * HOUR_NS
KEEP_FROM = NOW - DAY

pieces = st.lists(
    st.builds(Piece, st.integers(NOW - 40 * DAY, NOW), st.integers(1, 1000)), max_size=12
).map(tuple)
stores = st.builds(
    lambda *parts: [
        Store(name, held, room, other, shrinks=name != "journal")
        for name, (held, room, other) in zip(("journal", "loki", "prometheus"), parts, strict=True)
    ],
    *[st.tuples(pieces, st.integers(0, 500), st.integers(0, 500))] * 3,
)


def kept(store: Store, plan_cuts: dict[str, int]) -> list[Piece]:
    cut = plan_cuts.get(store.name)
    return [piece for piece in store.pieces if cut is None or piece.end_ns >= cut]


@given(stores, st.integers(0, 12_000))
def test_the_oldest_goes_first_and_no_more_than_needed(found: list[Store], capacity: int) -> None:
    room = Room("all", frozenset(store.name for store in found), capacity)
    plan = make_plan(found, [room], keep_from_ns=KEEP_FROM)
    cuts = dict(plan.cuts)
    journal = found[0]
    remains = {store.name: kept(store, cuts) for store in found}

    # What is younger than what is kept in any case stays.
    for store in found:
        assert set(remains[store.name]) >= {p for p in store.pieces if p.end_ns >= KEEP_FROM}
    # Nothing that goes is younger than something that stays, but the journal's: its file gives
    # the others no room, so they may have to give more.
    for store in found:
        newest_gone = max(
            (p.end_ns for p in store.pieces if p not in remains[store.name]), default=0
        )
        for other in found:
            if store is journal or other is not journal:
                assert all(p.end_ns >= min(newest_gone, KEEP_FROM) for p in remains[other.name])
    # It fits, or all that may go is gone.
    used = sum(store.kept(cuts.get(store.name)) for store in found)
    if used > capacity:
        assert plan.over == {"all": used - capacity}
        assert all(p.end_ns >= KEEP_FROM for rest in remains.values() for p in rest)
    else:
        assert not plan.over
    # And no more than needed: with the newest lost time back, it would not fit.
    if "journal" in cuts:
        last = max(p.end_ns for s in found for p in s.pieces if p.end_ns < cuts["journal"])
        back = sum(s.kept(last) for s in found)
        assert back > capacity
    # The shrinking stores leave the journal's file its room, as far as they can.
    others = sum(s.kept(cuts.get(s.name)) for s in found[1:])
    floor = sum(
        s.pinned + sum(p.size for p in s.pieces if p.end_ns >= KEEP_FROM) for s in found[1:]
    )
    assert others <= max(capacity - journal.on_disk, floor)


@given(stores, st.integers(0, 12_000))
def test_a_plan_that_was_carried_out_asks_for_no_more(found: list[Store], capacity: int) -> None:
    """However slowly the stores follow, the cut does not run away."""
    room = Room("all", frozenset(store.name for store in found), capacity)
    cuts = dict(make_plan(found, [room], keep_from_ns=KEEP_FROM).cuts)
    after = []
    for store in found:
        rest = tuple(kept(store, cuts))
        freed = store.used - store.pinned - sum(piece.size for piece in rest)
        slack = store.slack if store.shrinks else store.slack + freed
        after.append(Store(store.name, rest, store.pinned, slack, store.shrinks))
    assert make_plan(after, [room], keep_from_ns=KEEP_FROM).cuts == {}


@given(pieces, st.integers(0, 12_000))
def test_a_cut_is_the_latest_that_fits(found: tuple[Piece, ...], capacity: int) -> None:
    cut = find_cut(found, capacity)
    if cut is None:
        assert sum(piece.size for piece in found) <= capacity
        return
    assert sum(piece.size for piece in found if piece.end_ns >= cut) <= capacity
    assert sum(piece.size for piece in found if piece.end_ns >= cut - 1) > capacity


def test_what_is_pinned_never_goes() -> None:
    store = Store("journal", (Piece(NOW - 9 * DAY, 10),), pinned=100, shrinks=False)
    plan = make_plan([store], [Room("r", frozenset({"journal"}), 50)], keep_from_ns=KEEP_FROM)
    assert plan.over == {"r": 50}
    assert pinned(store).used == 110
    assert pinned(store).pieces == ()


def test_two_rooms_both_hold() -> None:
    old, young = Piece(NOW - 9 * DAY, 10), Piece(NOW - 2 * DAY, 10)
    both = [Store("journal", (old, young), shrinks=False), Store("loki", (old, young))]
    rooms = [
        Room("budget", frozenset({"journal", "loki"}), 40),
        Room("disk", frozenset({"loki"}), 12),
    ]
    assert set(make_plan(both, rooms, keep_from_ns=KEEP_FROM).cuts) == {"loki"}


def test_rooms_come_from_the_settings_and_the_file_systems() -> None:
    disk = DiskSettings(budget_bytes=2**30, share=0.5, reserve_bytes=100)
    found = [Store("journal", (), 10, 5, shrinks=False), Store("loki", (), 20)]
    one = {"journal": (1, 1000, 300), "loki": (1, 1000, 300)}
    assert rooms_of(disk, found, one) == [
        Room("disk.budget_bytes", frozenset({"journal", "loki"}), 2**30),
        Room("the file system of journal", frozenset({"journal", "loki"}), 235),
    ]
    two = {"journal": (1, 1000, 300), "loki": (2, 90, 0)}
    assert [room.capacity for room in rooms_of(DiskSettings(), found, two)] == [0, 0]
    assert len(rooms_of(disk, found, two)) == 3


def use(name: str, cut_ns: int | None = None, *, used: int = 10, slack: int = 0) -> StoreUse:
    return StoreUse(name, used, slack, 0, cut_ns)


def decision(*found: StoreUse, over: dict[str, int] | None = None) -> Decision:
    return Decision(NOW, 1000, 500, found, over or {})


def test_prometheus_is_told_and_the_others_make_room() -> None:
    old, young = Piece(NOW - 9 * DAY, 40), Piece(NOW - 2 * DAY, 40)
    found = [
        Store("journal", (old, young), shrinks=False),
        Store("loki", (old, young)),
        Store("prometheus", (old, young)),
    ]
    room = [Room("r", frozenset({"journal", "loki", "prometheus"}), 200)]
    made = decide(found, room, free=1, now_ns=NOW, keep_ns=DAY)
    assert set(made.shortened) == {"journal", "loki"}
    assert made.prometheus_bytes == 40
    assert "prometheus" in {store.name for store in made.stores}


def test_the_journals_policy_is_tightened_never_loosened() -> None:
    policy = RetentionPolicy(90 * DAY, 77)
    cut = decision(use("journal", NOW - 10 * DAY))

    def age(given: Decision | None, policy: RetentionPolicy = policy) -> int | None:
        made = tighten(policy, given, now_ns=NOW, keep_ns=DAY)
        assert made.max_bytes == policy.max_bytes
        return made.max_age_ns

    assert age(None) == 90 * DAY
    assert age(decision(use("journal"))) == 90 * DAY
    assert age(cut) == 10 * DAY
    assert age(cut, RetentionPolicy(5 * DAY, None)) == 5 * DAY
    assert age(cut, RetentionPolicy(None, None)) == 10 * DAY
    # A decision that nobody should have made still leaves a day.
    assert age(decision(use("journal", NOW + DAY))) == DAY


def test_loki_is_given_whole_hours_and_at_least_a_day() -> None:
    assert json.loads(overrides(decision(use("loki")), 90, NOW)) == {"overrides": {}}
    cut = decision(use("loki", NOW - 50 * HOUR_NS - 5))
    assert json.loads(overrides(cut, 90, NOW)) == {
        "overrides": {"fake": {"retention_period": "50h"}}
    }
    soon = decision(use("loki", NOW - HOUR_NS))
    assert b'"24h"' in overrides(soon, 90, NOW)


@given(st.integers(-DAY, 400 * DAY), st.integers(1, 3650))
def test_lokis_retention_is_tightened_never_loosened(age: int, days: int) -> None:
    written = json.loads(overrides(decision(use("loki", NOW - age)), days, NOW))["overrides"]
    if age >= days * DAY or days == 1:
        assert written == {}, "Loki's own limit holds"
    else:
        assert 24 <= int(written["fake"]["retention_period"][:-1]) < days * 24


def test_only_what_is_new_is_told() -> None:
    calm, cut = decision(use("loki")), decision(use("loki", NOW - DAY))
    assert not is_news(None, calm)
    assert is_news(calm, cut)
    assert is_news(None, cut)
    assert not is_news(cut, cut)
    assert not is_news(cut, calm)
    assert is_news(cut, decision(use("loki", NOW - DAY), over={"r": 5}))
    told = event(decision(use("loki", NOW - 36 * HOUR_NS), over={"r": 5}))
    assert summarize(told).rule == "SIB disk guard"
    assert b"1.5 days" in told


def test_decisions_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert read_decision(tmp_path) is None
    (tmp_path / DECISION).write_bytes(b"nonsense")
    assert read_decision(tmp_path) is None


def test_findings_name_their_cure() -> None:
    assert judge_disk_use(None, NOW)[0].verdict is Verdict.SKIPPED
    assert judge_disk_use(decision(use("loki")), NOW)[0].verdict is Verdict.WELL
    bad = Decision(
        NOW - HOUR_NS,
        1000,
        0,
        (use("journal", NOW - 3 * DAY, slack=600), use("loki")),
        {"r": 5},
        prometheus_bytes=7,
    )
    found = {finding.check: finding for finding in judge_disk_use(bad, NOW)}
    assert set(found) == {
        "disk-guard",
        "disk-budget",
        "disk-journal",
        "disk-journal-slack",
        "disk-prometheus",
    }
    assert found["disk-budget"].verdict is Verdict.FAILED
    assert all(finding.remedy for finding in found.values())


@pytest.mark.parametrize(
    ("period", "verdict"),
    [
        (b"2d12h", Verdict.WELL),
        (b"1d", Verdict.WELL),
        (b"60h0m0s", Verdict.WELL),
        (b"60h1s", Verdict.FAILED),
        (b"1w", Verdict.FAILED),
        (b"soon", Verdict.WARNING),
    ],
)
def test_what_loki_says_it_keeps_is_compared(period: bytes, verdict: Verdict) -> None:
    page = b"query_timeout: 1m\nretention_period: " + period + b"\nretention_stream: []\n"
    assert judge_loki_limits(60, page).verdict is verdict


def test_stores_are_measured_as_they_lie_there(tmp_path: Path) -> None:
    assert measure_loki(tmp_path / "none") is None
    assert measure_prometheus(tmp_path / "none") is None
    for name in ("chunks/fake/a", "chunks/fake/b", "wal/0001"):
        path = tmp_path / "loki" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 8192)
    loki = measure_loki(tmp_path / "loki")
    assert loki is not None
    assert sum(piece.size for piece in loki.pieces) == 2 * 8192
    assert loki.pinned == 8192
    assert abs(loki.pieces[-1].end_ns - time.time_ns()) < 2 * HOUR_NS

    block = tmp_path / "prometheus" / "01ABC"
    (block / "chunks").mkdir(parents=True)
    (block / "meta.json").write_text('{"maxTime": 5000, "ulid": "x"}')
    (block / "chunks/000001").write_bytes(b"x" * 8192)
    (tmp_path / "prometheus/wal").mkdir()
    (tmp_path / "prometheus/wal/0").write_bytes(b"x" * 4096)
    (tmp_path / "prometheus/broken").mkdir()
    (tmp_path / "prometheus/broken/meta.json").write_text("nonsense")
    found = measure_prometheus(tmp_path / "prometheus")
    assert found is not None
    (piece,) = found.pieces
    assert piece.end_ns == 5 * 10**9
    assert piece.size >= 8192
    assert found.pinned >= 4096


def test_gathering_and_metrics(tmp_path: Path) -> None:
    assert gather([(5, 1), (9, 2), (11, 4), (25, 0)], 10) == (Piece(9, 3), Piece(19, 4))
    registry = CollectorRegistry()
    registry.register(DiskCollector(tmp_path))
    assert b"sib_server_disk" not in generate_latest(registry)
    import msgspec  # noqa: PLC0415

    (tmp_path / DECISION).write_bytes(msgspec.json.encode(decision(use("loki", NOW - DAY))))
    page = generate_latest(registry).decode()
    assert 'sib_server_disk_used_bytes{store="loki"} 10.0' in page
    assert 'sib_server_disk_kept_seconds{store="loki"} 86400.0' in page


@pytest.mark.parametrize("keep", [24, 48])
def test_settings_in_nanoseconds(keep: int) -> None:
    assert DiskSettings(keep_hours=keep).keep_ns == keep * HOUR_NS
