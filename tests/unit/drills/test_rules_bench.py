"""What `scripts/bench rules` makes of its rounds."""

from __future__ import annotations

from tests.bench.rules import sum_up


def taken(cpu: float, events: float, lost: int = 0) -> dict[str, float]:
    return {"cpu_s": cpu, "cpu_percent": cpu, "events": events, "lost": lost, "rss_mib": 80}


def test_a_ratio_is_of_the_same_round_and_the_median_is_told() -> None:
    base = [taken(1, 1000), taken(2, 1000), taken(1, 1000)]
    mine = [taken(2, 2000), taken(3, 1000, lost=9), taken(9, 3000)]
    found = sum_up(mine, base)
    assert found["ratio_cpu"] == 2
    assert found["ratio_cpu_range"] == [1.5, 9]
    # Twice the events at twice the cost is no dearer event.
    assert found["ratio_an_event"] == 1.5
    assert found["ratio_an_event_range"] == [1, 3]
    assert found["lost"] == 9
    assert sum_up(base, base)["ratio_an_event"] == 1
