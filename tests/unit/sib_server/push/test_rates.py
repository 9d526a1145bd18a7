from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.ids import HostId
from sib_server.stack.push.rates import HostRates


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 5_000)), max_size=30),
    st.integers(1, 1000),
    st.integers(1, 5000),
)
def test_no_host_gets_more_than_burst_and_rate_and_one_body_over(
    pushes: list[tuple[float, int]], rate: int, burst: int
) -> None:
    rates, host = HostRates(rate, burst), HostId("a")
    now = spent = 0.0
    largest = 0
    for pause, size in pushes:
        now += pause
        if rates.wait(host, now) == 0:
            rates.spend(host, size, now)
            spent += size
            largest = max(largest, size)
        assert spent <= burst + rate * now + largest + 1e-6


def test_waiting_as_told_is_enough_and_hosts_do_not_share() -> None:
    rates = HostRates(100, 1000)
    one, other = HostId("1"), HostId("2")
    rates.spend(one, 1500, 0.0)
    assert rates.wait(one, 0.0) == 5.0
    assert rates.wait(other, 0.0) == 0.0
    assert rates.wait(one, 5.0) == 0.0


def test_memory_is_bounded() -> None:
    rates = HostRates(1, 1)
    for number in range(20_001):
        rates.spend(HostId(str(number)), 100, 0.0)
    assert rates.wait(HostId("0"), 0.0) == 0.0
    assert rates.wait(HostId("20000"), 0.0) > 0
