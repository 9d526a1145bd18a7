from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.renewal import (
    BACKDATE_SECONDS,
    LIFE_SECONDS,
    issued_at,
    renewal_due,
    renewal_time,
)

DAY = 86_400.0
times = st.floats(1e9, 4e9)
jitters = st.floats(0, 1)


@given(issued=times, life=st.floats(60, 400 * DAY), jitter=jitters)
def test_it_is_due_by_two_thirds_of_the_life_and_not_much_earlier(
    issued: float, life: float, jitter: float
) -> None:
    not_before, not_after = issued - BACKDATE_SECONDS, issued + life
    at = renewal_time(not_before, not_after, jitter)
    assert issued + 0.61 * life - 1 <= at <= issued + 2 / 3 * life + 1
    assert renewal_due(not_before, not_after, issued + life * 0.67, jitter)
    assert not renewal_due(not_before, not_after, issued + life * 0.61 - 1, jitter)
    assert not renewal_due(not_before, not_after, issued, jitter)


@given(issued=times, wrong_by=st.floats(-30 * DAY, 30 * DAY), jitter=jitters)
def test_a_clock_that_is_wrong_by_days_does_not_matter_when_it_saw_the_certificate_come(
    issued: float, wrong_by: float, jitter: float
) -> None:
    not_before, not_after = issued - BACKDATE_SECONDS, issued + LIFE_SECONDS
    received = issued + wrong_by
    right = renewal_time(not_before, not_after, jitter) - issued
    wrong = renewal_time(not_before, not_after, jitter, received=received) - received
    assert abs(right - wrong) < 0.01
    assert renewal_due(not_before, not_after, received + 5 * DAY, jitter, received=received)


@given(
    issued=times,
    ahead=st.floats(-30 * DAY, 3650 * DAY),
    stays=st.floats(0, 7 * DAY),
    jitter=jitters,
    off=st.floats(-1.0, 1.0),
)
def test_a_clock_that_is_put_right_after_the_certificate_came_renews_before_its_end(
    issued: float, ahead: float, stays: float, jitter: float, off: float
) -> None:
    not_before, not_after = issued - BACKDATE_SECONDS, issued + LIFE_SECONDS
    looked = [hour * 3600.0 for hour in range(7 * 24)]
    clocks = [issued + at + (ahead if at < stays else off) for at in looked]
    due = [
        at
        for at, now in zip(looked, clocks, strict=True)
        if renewal_due(not_before, not_after, now, jitter, received=issued + ahead)
    ]
    assert due
    assert due[0] <= 6.5 * DAY


@given(issued=times, ahead=st.floats(-3650 * DAY, 3650 * DAY), jitter=jitters)
def test_a_clock_that_stays_wrong_does_not_renew_all_the_time(
    issued: float, ahead: float, jitter: float
) -> None:
    not_before, not_after = issued - BACKDATE_SECONDS, issued + LIFE_SECONDS
    received = issued + ahead
    assert not renewal_due(not_before, not_after, received + 1.7 * DAY, jitter, received=received)


def test_a_certificate_that_was_not_backdated_counts_from_its_beginning() -> None:
    assert issued_at(1000.0, 1000.0 + 3600) == 1000.0
    assert issued_at(0.0, BACKDATE_SECONDS + 1.0) == BACKDATE_SECONDS


def test_jitter_spreads() -> None:
    assert renewal_time(0, 2 * DAY + LIFE_SECONDS, 0) - renewal_time(
        0, 2 * DAY + LIFE_SECONDS, 1
    ) > (8 * 3600)
