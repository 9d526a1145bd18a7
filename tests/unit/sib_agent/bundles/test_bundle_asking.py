"""When a host asks which bundle it shall have, and what it makes of signatures that grow old."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_agent.bundles.asking import SPREAD, WITHIN_SECONDS, Asking
from sib_agent.bundles.freshness import Freshness, Held, withheld
from sib_protocol.messages import WantedBundle

DRAWS = st.integers(0, 2**32).map(random.Random)
# A server takes a second to see that something was published, and a moment to answer.
ANSWERED = 0.5
SEEN = 1.0


def report_in(interval: float, draw: random.Random) -> float:
    return interval * draw.uniform(*SPREAD)


@given(DRAWS, st.floats(1.0, WITHIN_SECONDS))
def test_a_host_that_is_told_in_time_never_asks(draw: random.Random, interval: float) -> None:
    now, asking = 0.0, Asking.begun(0.0)
    for _ in range(20):
        later = report_in(interval, draw)
        asking = asking.told(now, later, draw)
        now += later + ANSWERED
        assert asking.due > now


@given(DRAWS, st.floats(WITHIN_SECONDS * 1.4, 3600.0))
def test_with_rare_reports_it_asks_in_their_place(draw: random.Random, interval: float) -> None:
    now, gaps = 0.0, []
    asking = Asking.begun(0.0).told(0.0, report_in(interval, draw), draw)
    for _ in range(50):
        gaps.append(asking.due - now)
        now = asking.due
        asking = asking.answered(now, draw)
    assert max(gaps) + ANSWERED + SEEN <= WITHIN_SECONDS
    # Bounded load, and no two hosts at the same instant for long.
    assert min(gaps) >= WITHIN_SECONDS * SPREAD[0]
    assert len(set(gaps)) > 40


@given(DRAWS, st.floats(1.0, 3600.0), st.integers(0, 5))
def test_once_reports_fail_it_knows_in_time(
    draw: random.Random, interval: float, reports: int
) -> None:
    now, asking = 0.0, Asking.begun(0.0)
    for _ in range(reports):
        later = report_in(interval, draw)
        asking = asking.told(now, later, draw)
        now += min(later, WITHIN_SECONDS)
    heard = now - (min(later, WITHIN_SECONDS) if reports else 0.0)
    assert asking.due - heard + SEEN <= WITHIN_SECONDS
    for _ in range(10):
        before, asking = asking.due, asking.answered(asking.due, draw)
        assert asking.due - before + ANSWERED + SEEN <= WITHIN_SECONDS


@given(DRAWS)
def test_a_server_that_does_not_answer_is_asked_less_and_less(draw: random.Random) -> None:
    asking, waits = Asking.begun(0.0), []
    for _ in range(10):
        now = asking.due
        asking = asking.failed(now, draw)
        waits.append(asking.due - now)
    assert waits[0] >= 2.5
    assert all(30.0 <= wait <= 60.0 for wait in waits[5:])
    busy = asking.failed(now, draw, at_least=200.0)
    assert busy.due == now + 200.0
    refused = asking.refused(now, draw)
    assert 450.0 <= refused.due - now <= 558.0
    assert refused.failed(0.0, draw).due <= 5.0


def held(until: float, *versions: int) -> Held:
    return Held(until, frozenset(versions))


@given(DRAWS, st.floats(0.0, 1e6))
def test_what_expired_is_fetched_within_an_hour_and_by_no_two_at_once(
    draw: random.Random, steady: float
) -> None:
    fresh = Freshness().seen(held(100.0, 7), 99.0, steady, draw)
    assert fresh == Freshness()
    for old in (held(100.0, 7), None):
        late = fresh.seen(old, 100.0, steady, draw)
        assert steady <= late.due <= steady + 3600.0
        assert late.seen(old, 200.0, steady + 60.0, draw) == late
        assert late.due != Freshness().seen(old, 100.0, steady, draw).due
        frozen = late.failed(late.due, draw, unproven="timestamp.json is expired")
        assert late.due + 150.0 <= frozen.due <= late.due + 300.0
        # A server that is away afterwards says nothing of it.
        away = frozen.failed(frozen.due, draw, unproven=None)
        assert away.problem == "timestamp.json is expired"
        assert away.seen(held(1e9, 8), 200.0, away.due, draw) == Freshness()


@pytest.mark.parametrize(
    ("versions", "wanted", "told"),
    [
        ((), 5, False),
        ((5,), 5, False),
        ((5, 6), 6, False),
        # Signed since.
        ((5, 6), 7, False),
        # Signed for nobody any more.
        ((7, 8), 5, True),
    ],
)
def test_a_bundle_that_is_not_signed_any_more_is_not_what_to_have(
    versions: tuple[int, ...], wanted: int, told: bool
) -> None:
    found = withheld(held(0.0, *versions), WantedBundle(wanted, ()), None)
    assert (found is not None) == told
    assert found is None or found == "the server says bundle 5, and what it signs says 7, 8"
    assert withheld(None, WantedBundle(wanted, ()), None) is None
    assert withheld(held(0.0, *versions), None, None) is None
    assert withheld(None, None, "expired") == (
        "what the server has is not fresh, and hides what is newer: expired"
    )
