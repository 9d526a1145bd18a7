from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.backoff import Backoff


@given(st.integers(0, 10_000), st.floats(0.01, 10), st.floats(10, 1000), st.floats(0, 2000))
def test_waits_are_within_bounds(
    failures: int, first: float, longest: float, at_least: float
) -> None:
    backoff = Backoff(first, longest, failures)
    wait = backoff.wait(random.Random(1), at_least=at_least)
    assert at_least <= wait <= max(at_least, longest)
    assert backoff.ceiling() <= longest
    if failures:
        assert wait >= min(longest, first) / 2
        assert backoff.failed().ceiling() >= backoff.ceiling()
    assert backoff.succeeded().wait(random.Random(1)) == 0


def test_doubling_and_jitter() -> None:
    backoff = Backoff(first=1, longest=8)
    ceilings = []
    for _ in range(6):
        backoff = backoff.failed()
        ceilings.append(backoff.ceiling())
    assert ceilings == [1, 2, 4, 8, 8, 8]
    draw = random.Random(1)
    waits = {round(backoff.wait(draw), 3) for _ in range(100)}
    assert len(waits) > 50
    assert 4 <= min(waits) < 4.5
    assert 7.5 < max(waits) <= 8
