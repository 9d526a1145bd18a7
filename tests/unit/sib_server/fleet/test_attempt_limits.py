from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sib_server.fleet.health import HealthLimits, HealthState, health_state
from sib_server.fleet.limits import AttemptLimiter, Rate, address_key

addresses = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "junk"])
steps = st.lists(
    st.tuples(st.floats(0, 5), addresses, st.booleans()), max_size=150
)  # (time passed, from where, forgiven)


@given(steps, st.integers(1, 5), st.floats(0.01, 2))
def test_no_window_admits_more_than_burst_and_rate(
    steps: list[tuple[float, str, bool]], burst: int, per_second: float
) -> None:
    each, together = Rate(burst, per_second), Rate(burst * 2, per_second * 2)
    limiter = AttemptLimiter(each, together)
    now = 100.0
    counted: list[tuple[float, str]] = []
    for passed, address, right in steps:
        now += passed
        wait = limiter.admit(address, now)
        assert wait >= 0.0
        if wait > 0.0:
            continue
        if right:
            limiter.forgive(address, now)
        else:
            counted.append((now, address))
    for first, (since, address) in enumerate(counted):
        for until, _ in counted[first:]:
            window = until - since
            among = [entry for entry in counted[first:] if entry[0] <= until]
            assert len(among) <= together.burst + window * together.per_second + 1e-6
            own = [entry for entry in among if entry[1] == address]
            assert len(own) <= each.burst + window * each.per_second + 1e-6


@given(st.floats(0.01, 10), st.integers(1, 3))
def test_the_wait_that_is_told_is_enough(per_second: float, burst: int) -> None:
    limiter = AttemptLimiter(Rate(burst, per_second), Rate(1000, 1000))
    for _ in range(burst):
        assert limiter.admit("192.0.2.1", 0.0) == 0.0
    wait = limiter.admit("192.0.2.1", 0.0)
    assert wait > 0.0
    assert limiter.admit("192.0.2.1", math.nextafter(wait, 0) / 2) > 0.0
    assert limiter.admit("192.0.2.1", wait + 1e-6) == 0.0


def test_memory_is_bounded_whatever_addresses_come() -> None:
    limiter = AttemptLimiter(Rate(1, 1), Rate(1e9, 1e9))
    for number in range(10_000):
        limiter.admit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(limiter) == 4096
    limiter.forgive("10.0.0.0", 0.0)
    assert len(limiter) == 4096
    # The latest are the ones that are remembered.
    assert limiter.admit("10.0.39.15", 0.0) > 0.0


def test_forgiving_before_any_attempt_gives_nothing() -> None:
    limiter = AttemptLimiter(Rate(1, 0.1), Rate(1, 0.1))
    limiter.forgive("192.0.2.1", 0.0)
    assert limiter.admit("192.0.2.1", 0.0) == 0.0
    assert limiter.admit("192.0.2.1", 0.0) > 0.0


def test_who_counts_as_one() -> None:
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1") == "192.0.2.1"
    assert address_key("2001:db8::1") == address_key("2001:db8:0:0:ffff::2") == "2001:db8::/64"
    assert address_key("fe80::1%eth0") == "fe80::/64"
    assert address_key("2001:db8:0:1::1") != address_key("2001:db8::1")
    assert len(address_key("x" * 1000)) == 64


def test_health_states() -> None:
    limits = HealthLimits(late_seconds=90, silent_seconds=600)
    second = 10**9

    def at(age: int) -> HealthState:
        return health_state(1000 * second, (1000 + age) * second, limits)

    assert health_state(None, 5, limits) is HealthState.NEVER
    assert [at(age) for age in (-5, 0, 89, 90, 599, 600)] == [
        *[HealthState.HEALTHY] * 3,
        *[HealthState.LATE] * 2,
        HealthState.SILENT,
    ]
