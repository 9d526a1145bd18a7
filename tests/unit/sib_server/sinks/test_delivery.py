from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_protocol.backoff import Backoff
from sib_server.events.sinks.base import DeliveryReport, SinkUnavailableError
from sib_server.events.sinks.delivery import Delivery
from sib_server.events.stored import Seq, StoredEvent
from tests.fakes.events import stored


class Journal:
    """A journal in memory, with a cursor, that counts how often it is asked."""

    def __init__(self, count: int = 0) -> None:
        self.events: list[StoredEvent] = []
        self.at = 0
        self.reads = 0
        self.broken_advances = 0
        self._grown = asyncio.Event()
        self.append(count)

    def append(self, count: int = 1) -> None:
        for _ in range(count):
            self.events.append(stored(len(self.events), received_ns=1))
        self._grown.set()

    async def cursor(self) -> Seq:
        return Seq(self.at)

    async def read(self, after: Seq, max_events: int, max_bytes: int) -> list[StoredEvent]:
        self.reads += 1
        await asyncio.sleep(0)
        return self.events[after : after + max_events]

    async def advance(self, seq: Seq) -> None:
        assert seq > self.at
        if self.broken_advances:
            self.broken_advances -= 1
            raise OSError("no space left on device")
        self.at = seq

    async def wait(self, after: Seq) -> None:
        while len(self.events) <= after:
            self._grown.clear()
            await self._grown.wait()


class Sink:
    """Fails as it is told: each answer is what becomes of one delivery."""

    def __init__(self, answers: Sequence[str] = ()) -> None:
        self.name = "test"
        self.max_events = 3
        self.max_bytes = 1000
        self.answers = list(answers)
        self.taken: list[int] = []
        self.calls = 0
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, events: Sequence[StoredEvent]) -> DeliveryReport:
        self.calls += 1
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else "ok"
        if answer == "part":
            self.taken += [event.seq for event in events[:1]]
        if answer == "bug":
            raise KeyError("a bug in a sink")
        if answer != "ok":
            raise SinkUnavailableError(self.name, answer, 7.0 if answer == "wait" else None)
        self.taken += [event.seq for event in events]
        return DeliveryReport(accepted=len(events) - 1, adjusted=1, refused={"because": 1})

    async def close(self) -> None:
        self.closed = True


def delivery(sink: Sink, journal: Journal, slept: list[float] | None = None) -> Delivery:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)
        await asyncio.sleep(0)

    return Delivery(
        sink, journal, backoff=Backoff(1.0, 8.0), draw=random.Random(1), sleep=sleep, grace=0.2
    )


async def until(condition: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, 2.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["ok", "down", "part", "wait", "bug"]), max_size=12),
    st.integers(0, 15),
    st.integers(0, 3),
    st.data(),
)
def test_every_event_arrives_in_order_whatever_fails(
    answers: list[str], count: int, broken: int, data: st.DataObject
) -> None:
    more = data.draw(st.integers(0, 5))

    async def scenario() -> None:
        journal, sink = Journal(count), Sink(answers)
        journal.broken_advances = broken
        slept: list[float] = []
        loop = delivery(sink, journal, slept)
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(0)
        await until(lambda: journal.at == count)
        journal.append(more)
        await until(lambda: journal.at == count + more)
        await stop(task)
        assert sink.closed
        # First times come in order, without a gap.
        assert list(dict.fromkeys(sink.taken)) == list(range(1, count + more + 1))
        assert loop.state.cursor == count + more
        assert loop.state.failures == len(slept)
        assert loop.state.delivered + loop.state.refused["because"] == count + more

    asyncio.run(scenario())


def test_back_off_grows_and_respects_what_the_other_side_asks() -> None:
    async def scenario() -> None:
        journal, sink = Journal(1), Sink(["down", "down", "wait", "down", "down"])
        slept: list[float] = []
        loop = delivery(sink, journal, slept)
        task = asyncio.create_task(loop.run())
        await until(lambda: journal.at == 1)
        assert 0.5 <= slept[0] <= 1
        assert 1 <= slept[1] <= 2
        assert slept[2] == 7
        assert 4 <= slept[3] <= 8
        assert loop.state.last_error is None
        sink.answers = ["gone"]
        journal.append()
        await until(lambda: journal.at == 2)
        assert slept[-1] <= 1, "a success ends the back-off"
        await stop(task)

    asyncio.run(scenario())


def test_an_idle_loop_waits_without_reading_and_delivers_at_once() -> None:
    async def scenario() -> None:
        journal, sink = Journal(), Sink()
        task = asyncio.create_task(delivery(sink, journal).run())
        for _ in range(100):
            await asyncio.sleep(0)
        reads = journal.reads
        assert reads <= 2
        journal.append()
        await until(lambda: journal.at == 1, 0.5)
        await stop(task)

    asyncio.run(scenario())


def test_the_next_read_happens_while_a_delivery_is_under_way() -> None:
    async def scenario() -> None:
        journal, sink = Journal(6), Sink()
        sink.gate.clear()
        task = asyncio.create_task(delivery(sink, journal).run())
        await until(lambda: sink.calls == 1)
        await until(lambda: journal.reads == 2, 0.5)
        sink.gate.set()
        await until(lambda: journal.at == 6)
        assert sink.taken == [1, 2, 3, 4, 5, 6]
        await stop(task)

    asyncio.run(scenario())


@pytest.mark.parametrize("ends", [True, False])
def test_cancelling_lets_a_delivery_end_but_not_for_ever(ends: bool) -> None:
    async def scenario() -> None:
        journal, sink = Journal(6), Sink()
        sink.gate.clear()
        task = asyncio.create_task(delivery(sink, journal).run())
        await until(lambda: sink.calls == 1)
        task.cancel()
        await asyncio.sleep(0.01)
        if ends:
            sink.gate.set()
        await stop(task)
        assert journal.at == (3 if ends else 0)
        assert sink.closed

    asyncio.run(scenario())


def test_state_tells_of_a_back_off_while_it_lasts() -> None:
    async def scenario() -> None:
        journal, sink = Journal(1), Sink(["down"])
        loop = Delivery(sink, journal, backoff=Backoff(30.0, 30.0), clock=lambda: 100.0)
        task = asyncio.create_task(loop.run())
        await until(lambda: loop.state.retry_at is not None)
        assert 115 <= (loop.state.retry_at or 0) <= 130
        assert loop.state.last_error == "down"
        await stop(task)
        assert loop.state.retry_at is None

    asyncio.run(scenario())
