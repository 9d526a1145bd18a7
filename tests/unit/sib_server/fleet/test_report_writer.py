"""Reports that share transactions: whatever fails, each is answered for what became of it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_protocol.ids import HostId
from sib_server.fleet.report_writer import ReportLimits, ReportWriter
from sib_server.fleet.reports import ReceivedReport
from sib_server.listener.bodies import OverloadedError
from sib_server.state.database import StateUnavailableError
from tests.support.fleet import health_report

REPORT = health_report()
HOSTS = [HostId(f"00000000-0000-4000-8000-{number:012}") for number in range(4)]


class PoisonError(Exception):
    """One report that the database would not take."""


@dataclass
class Store:
    """All or none, as a transaction is; fails as it is told."""

    outages: Sequence[bool]
    poisoned: set[int]
    stored: list[ReceivedReport] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    under_way: int = 0

    def __call__(self, reports: Sequence[ReceivedReport]) -> None:
        assert self.under_way == 0, "two transactions at once"
        self.under_way += 1
        try:
            self.calls.append(len(reports))
            if self.outages and self.outages[len(self.calls) % len(self.outages)]:
                raise StateUnavailableError("sqlite:///x", "locked")
            if any(one.received_ns in self.poisoned for one in reports):
                raise PoisonError
            self.stored += reports
        finally:
            self.under_way -= 1


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 40)), max_size=60),
    st.lists(st.booleans(), max_size=5),
    st.sets(st.integers(0, 59), max_size=3),
    st.integers(1, 8),
    st.integers(1, 30),
    st.integers(20, 400),
)
def test_each_is_answered_for_what_became_of_it_and_hosts_stay_in_order(
    arrivals: list[tuple[int, int, int]],
    outages: list[bool],
    poisoned: set[int],
    together: int,
    waiting: int,
    waiting_bytes: int,
) -> None:
    store = Store(outages, poisoned)
    outcomes: dict[int, str] = {}
    reports = [ReceivedReport(HOSTS[host], REPORT, n) for n, (host, _, _) in enumerate(arrivals)]

    async def scenario() -> None:
        with ThreadPoolExecutor(2) as threads:
            limits = ReportLimits(0.0, together, waiting, waiting_bytes)
            writer = ReportWriter(store, threads, limits)

            async def send(report: ReceivedReport, size: int) -> None:
                try:
                    await writer.submit(report, size)
                except OverloadedError:
                    outcomes[report.received_ns] = "refused"
                    assert report not in store.stored
                except (StateUnavailableError, PoisonError) as error:
                    outcomes[report.received_ns] = type(error).__name__
                    assert report not in store.stored
                else:
                    outcomes[report.received_ns] = "stored"
                    assert report in store.stored

            tasks = []
            for report, (_, turns, size) in zip(reports, arrivals, strict=True):
                tasks.append(asyncio.create_task(send(report, size)))
                for _ in range(turns):
                    await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            await writer.close()

    run(scenario())
    assert outcomes.keys() == {report.received_ns for report in reports}
    stored = [number for number, outcome in outcomes.items() if outcome == "stored"]
    assert Counter(one.received_ns for one in store.stored) == Counter(stored), "lost or doubled"
    for host in HOSTS:
        own = [one.received_ns for one in store.stored if one.host_id == host]
        assert own == sorted(own)
    # Who was told of a poisoned report had sent it; an outage is everybody's in that transaction.
    blamed = {number for number, outcome in outcomes.items() if outcome == "PoisonError"}
    assert blamed <= poisoned
    assert poisoned.isdisjoint(stored)
    assert max(store.calls, default=0) <= together
    if not any(outages):
        assert "StateUnavailableError" not in outcomes.values()


def test_the_first_waits_for_nothing_and_those_behind_it_share_a_transaction() -> None:
    begun, go_on = threading.Event(), threading.Event()
    store = Store((), set())

    def slow(reports: Sequence[ReceivedReport]) -> None:
        begun.set()
        assert go_on.wait(10)
        store(reports)

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as threads:
            writer = ReportWriter(slow, threads, ReportLimits(waiting=100))
            tasks = [asyncio.create_task(writer.submit(ReceivedReport(HOSTS[0], REPORT, 0), 10))]
            await asyncio.to_thread(begun.wait, 10)
            tasks += [
                asyncio.create_task(writer.submit(ReceivedReport(HOSTS[1], REPORT, n), 10))
                for n in range(1, 101)
            ]
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await writer.submit(ReceivedReport(HOSTS[2], REPORT, 999), 10)
            # One whose sender went away is stored with the others, and disturbs nobody.
            tasks.pop(50).cancel()
            assert not any(task.done() for task in tasks)
            go_on.set()
            await asyncio.gather(*tasks)
            await writer.close()

    run(scenario())
    assert store.calls == [1, 100]
    assert [one.received_ns for one in store.stored] == list(range(101))
