"""The sink Falcosidekick against a real one and against the fake, with outputs that go down."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sib_server.events.sinks.base import DeliveryReport, SinkUnavailableError
from sib_server.events.sinks.falcosidekick import FalcosidekickSink
from sib_server.events.sinks.settings import FalcosidekickSinkSettings, OutputExpectation
from sib_server.events.stored import StoredEvent
from tests.fakes.control import Failure, cut, serve
from tests.fakes.events import stored
from tests.fakes.falcosidekick import FakeFalcosidekick, Output
from tests.support.components import (
    FakeFalcosidekickProgram,
    Falcosidekick,
    RealFalcosidekick,
    get,
    post_json,
)
from tests.support.ports import free_port

WEBHOOK = {"webhook": OutputExpectation()}
BOTH = {"webhook": OutputExpectation(), "alertmanager": OutputExpectation("critical")}


class Receiver:
    """What an output posts to: up, down, or refusing some events."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.down = False
        self.hang = False
        self.poison: set[int] = set()
        self.got: list[int] = []
        self.posts = 0
        self.bodies: list[Any] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.posts += 1
        while self.hang:
            await asyncio.sleep(0.02)
        if self.down:
            return web.Response(status=503)
        for item in body if isinstance(body, list) else [body]:
            # Alertmanager's form has what the webhook has under output_fields as a label.
            text = json.dumps(item)
            number = int(text.split("/")[1].split('"')[0]) if "/" in text else -1
            if number in self.poison:
                return web.Response(status=400)
            self.got.append(number)
            self.bodies.append(item)
        return web.Response(status=200)

    async def start(self) -> web.AppRunner:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{any:.*}", self.handle)
        return (await serve(app, self.port))[0]


@pytest.fixture(params=["fake", "real"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Falcosidekick]]:
    started: list[Falcosidekick] = []

    def start(webhook: str, alertmanager: str | None = None) -> Falcosidekick:
        kind = RealFalcosidekick if request.param == "real" else FakeFalcosidekickProgram
        program = kind(tmp_path / "falcosidekick", webhook, alertmanager)
        program.start()
        started.append(program)
        return program

    yield start
    for program in started:
        program.kill()


def run(scenario: Callable[[Receiver], Awaitable[None]]) -> None:
    async def main() -> None:
        receiver = Receiver()
        runner = await receiver.start()
        try:
            await asyncio.wait_for(scenario(receiver), 60)
        finally:
            receiver.hang = False
            await runner.cleanup()

    asyncio.run(main())


def sink_for(url: str, **settings: Any) -> FalcosidekickSink:
    given = {"outputs": WEBHOOK, "settle_timeout_seconds": 5.0, **settings}
    return FalcosidekickSink(FalcosidekickSinkSettings(url=url, **given))


async def until_delivered(
    sink: FalcosidekickSink, events: Sequence[StoredEvent], tries: int = 50
) -> DeliveryReport:
    for _ in range(tries):
        with suppress(SinkUnavailableError):
            return await sink.deliver(events)
        await asyncio.sleep(0.05)
    raise AssertionError("not delivered")


def test_events_reach_the_output_as_falco_wrote_them(make: Callable[..., Falcosidekick]) -> None:
    async def scenario(receiver: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url)
        sink = sink_for(program.url)
        events = [
            *(stored(n) for n in range(20)),
            stored(20, line=b"\xff not JSON"),
            stored(21, line=b'{"output_fields":{"k8s.ns.name":5,"k8s.pod.name":[1]}}'),
            stored(22, line=b'{"rule":"r","HOSTNAME":"db-1","hostname":"db-1"}'),
        ]
        report = await sink.deliver(events)
        assert (report.accepted, report.refused_count) == (23, 0)
        assert sorted(receiver.got) == list(range(23)), "delivered before deliver() returned"
        body = next(item for item in receiver.bodies if item["output"] == "event 7")
        assert body["hostname"] == "web-1"
        assert body["rule"] == "A rule"
        assert body["output_fields"]["n"] == 7
        assert body["output_fields"]["sib.host_id"]
        assert {item["hostname"] for item in receiver.bodies} == {"web-1"}
        await sink.close()

    run(scenario)


@pytest.mark.parametrize("known", [True, False], ids=["outputs-known", "outputs-unknown"])
def test_an_outage_of_an_output_loses_nothing(
    make: Callable[..., Falcosidekick], known: bool
) -> None:
    async def scenario(receiver: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url)
        sink = sink_for(program.url, outputs=WEBHOOK if known else {}, settle_quiet_seconds=0.3)
        first, second = [stored(n) for n in range(5)], [stored(n) for n in range(5, 10)]
        await sink.deliver(first)
        receiver.down = True
        for _ in range(4):
            with pytest.raises(SinkUnavailableError, match="webhook"):
                await sink.deliver(second)
        # Five for the batch, and then one an attempt.
        assert receiver.posts <= 5 + 5 + 3
        receiver.down = False
        await until_delivered(sink, second)
        assert set(receiver.got) == set(range(10))
        assert max(Counter(receiver.got).values()) == 1, "what failed had not arrived"
        await sink.close()

    run(scenario)


def test_a_failing_output_does_not_repeat_much_to_the_others(
    make: Callable[..., Falcosidekick],
) -> None:
    async def scenario(receiver: Receiver) -> None:
        pager = Receiver()
        runner = await pager.start()
        try:
            await with_pager(receiver, pager)
        finally:
            await runner.cleanup()

    async def with_pager(receiver: Receiver, pager: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url, pager.url)
        sink = sink_for(program.url, outputs=BOTH)
        events = [stored(n, priority="Critical" if n % 3 == 0 else "Notice") for n in range(9)]
        receiver.down = True
        for _ in range(5):
            with pytest.raises(SinkUnavailableError):
                await sink.deliver(events)
        receiver.down = False
        report = await until_delivered(sink, events)
        assert report.accepted == 9
        assert set(receiver.got) == set(range(9))
        assert 3 + 3 <= pager.posts <= 3 + 3 + 4
        await sink.close()

    run(scenario)


def test_an_event_that_an_output_never_takes_is_given_up_and_the_others_arrive(
    make: Callable[..., Falcosidekick],
) -> None:
    async def scenario(receiver: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url)
        sink = sink_for(program.url)
        receiver.poison = {3}
        report = await until_delivered(sink, [stored(n) for n in range(8)])
        assert report.refused == {"output": 1}
        assert set(receiver.got) == set(range(8)) - {3}
        assert (await sink.deliver([stored(8)])).accepted == 1
        await sink.close()

    run(scenario)


def test_a_restart_with_events_under_way_brings_them_again(
    make: Callable[..., Falcosidekick],
) -> None:
    async def scenario(receiver: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url)
        sink = sink_for(program.url, settle_timeout_seconds=0.5)
        await sink.deliver([stored(0)])
        receiver.hang = True
        events = [stored(n) for n in range(1, 6)]
        with pytest.raises(SinkUnavailableError, match="still at work"):
            await sink.deliver(events)
        posts = receiver.posts
        with pytest.raises(SinkUnavailableError, match="still at work"):
            await sink.deliver(events)
        assert receiver.posts == posts, "nothing is posted while the first is under way"
        await asyncio.to_thread(program.kill)
        with pytest.raises(SinkUnavailableError):
            await sink.deliver(events)
        receiver.hang = False
        await asyncio.to_thread(program.start)
        with pytest.raises(SinkUnavailableError, match="restarted"):
            await sink.deliver(events)
        await until_delivered(sink, events)
        assert set(receiver.got) == set(range(6))
        await sink.close()

    run(scenario)


def test_outputs_that_were_slow_and_not_down_get_nothing_twice(
    make: Callable[..., Falcosidekick],
) -> None:
    async def scenario(receiver: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url)
        sink = sink_for(program.url, settle_timeout_seconds=0.3)
        receiver.hang = True
        events = [stored(n) for n in range(4)]
        with pytest.raises(SinkUnavailableError, match="webhook still at work"):
            await sink.deliver(events)
        receiver.hang = False
        report = await until_delivered(sink, [*events, stored(4)])
        assert report.accepted == 5
        assert sorted(receiver.got) == list(range(5))
        await sink.close()

    run(scenario)


def test_both_refuse_the_same_bodies(make: Callable[..., Falcosidekick]) -> None:
    async def scenario(receiver: Receiver) -> None:
        program = await asyncio.to_thread(make, receiver.url)
        good = {
            "output": "o /0",
            "priority": "Warning",
            "rule": "r",
            "time": "2026-11-25T00:55:18Z",
            "output_fields": {"a": 1},
        }
        assert (await asyncio.to_thread(post_json, program.url, good))[0] == 200
        bad: list[Any] = [
            *({k: v for k, v in good.items() if k != left} for left in good if left != "output"),
            {**good, "priority": "high"},
            {**good, "time": "2026-11-25T00:55:18+0000"},
            {**good, "tags": [1]},
            {**good, "hostname": 5},
            {**good, "output_fields": {}},
            [],
        ]
        for content in bad:
            assert (await asyncio.to_thread(post_json, program.url, content))[0] == 400
        with pytest.raises(OSError, match=r"[Rr]emote end closed|reset"):
            await asyncio.to_thread(
                post_json, program.url, {**good, "output_fields": {"k8s.ns.name": 5}}
            )
        page = (await asyncio.to_thread(get, f"{program.url}/metrics")).decode()
        prefix = 'falcosecurity_falcosidekick_inputs_total{source="requests",status='
        assert f'{prefix}"accepted"}} 1' in page
        assert f'{prefix}"rejected"}} {len(bad)}' in page

    run(scenario)


# What the real one does only when it is in trouble.


def with_fake(
    tmp_path: Path,
    scenario: Callable[[FakeFalcosidekick, FalcosidekickSink], Awaitable[None]],
    kind: type[FakeFalcosidekick] = FakeFalcosidekick,
    **settings: Any,
) -> None:
    async def main() -> None:
        fake = kind(tmp_path, {"webhook": Output()})
        sink = sink_for(await fake.start(), timeout_seconds=1, **settings)
        try:
            await asyncio.wait_for(scenario(fake, sink), 30)
        finally:
            await sink.close()
            await fake.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "failure",
    [
        Failure("status", 500, count=1),
        Failure("status", 401, count=1),
        Failure("half", count=1),
        Failure("lost", count=1),
        Failure("slow", seconds=1.5, count=1),
    ],
    ids=lambda failure: f"{failure.mode}-{failure.status}",
)
def test_trouble_with_a_request_brings_its_event_again(tmp_path: Path, failure: Failure) -> None:
    async def scenario(fake: FakeFalcosidekick, sink: FalcosidekickSink) -> None:
        fake.failure = failure
        events = [stored(n) for n in range(3)]
        with pytest.raises(SinkUnavailableError):
            await sink.deliver(events)
        await until_delivered(sink, events)
        got = Counter(item["output"] for item in fake.delivered("webhook"))
        assert set(got) == {f"event {n}" for n in range(3)}

    with_fake(tmp_path, scenario)


class _Panics(FakeFalcosidekick):
    async def _take(self, request: web.Request) -> web.Response:
        if b'"event 1"' in await request.read():
            return cut(request)
        return await super()._take(request)


def test_an_event_that_always_cuts_the_connection_is_given_up(tmp_path: Path) -> None:
    async def scenario(_: FakeFalcosidekick, sink: FalcosidekickSink) -> None:
        alone = [stored(1)]
        for _try in range(5):
            with pytest.raises(SinkUnavailableError, match="connection"):
                await sink.deliver(alone)
        report = await until_delivered(sink, [*alone, stored(2), stored(3)])
        assert report.refused == {"output": 1}
        assert report.accepted == 2

    with_fake(tmp_path, scenario, kind=_Panics)


def test_an_event_that_falcosidekick_refuses_is_counted(tmp_path: Path) -> None:
    async def scenario(fake: FakeFalcosidekick, sink: FalcosidekickSink) -> None:
        fake.failure = Failure("status", 400, count=1)
        report = await sink.deliver([stored(n) for n in range(3)])
        assert report.refused == {"falcosidekick": 1}
        assert report.accepted == 2
        assert len(fake.delivered("webhook")) == 2

    with_fake(tmp_path, scenario)


def test_an_output_that_falcosidekick_does_not_have_does_not_block_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(fake: FakeFalcosidekick, sink: FalcosidekickSink) -> None:
        report = await until_delivered(sink, [stored(0)], tries=60)
        assert report.accepted == 1
        assert "misspelt" in caplog.text
        assert (await sink.deliver([stored(1)])).accepted == 1, "and is not waited for again"
        assert len(fake.delivered("webhook")) == 2

    with_fake(
        tmp_path,
        scenario,
        outputs={"webhook": OutputExpectation(), "misspelt": OutputExpectation()},
        settle_timeout_seconds=0.02,
    )


def test_an_output_that_takes_nothing_for_days_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        fake = FakeFalcosidekick(tmp_path, {"webhook": Output(state="down")})
        clock = iter(range(0, 10**9, 3600))
        settings = FalcosidekickSinkSettings(
            url=await fake.start(), outputs=WEBHOOK, settle_timeout_seconds=3600.0
        )
        sink = FalcosidekickSink(
            settings, clock=lambda: float(next(clock)), give_up_after=24 * 3600.0
        )
        report = await until_delivered(sink, [stored(0), stored(1)], tries=100)
        assert report.refused == {"output": 2}
        await sink.close()
        await fake.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_what_is_no_falcosidekick_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        app = web.Application()
        answers = iter([(404, ""), (200, "process_start_time_seconds x")])

        async def metrics(_: web.Request) -> web.Response:
            status, text = next(answers)
            return web.Response(status=status, text=text)

        app.router.add_get("/metrics", metrics)
        runner, port = await serve(app, 0)
        sink = sink_for(f"http://127.0.0.1:{port}")
        with pytest.raises(SinkUnavailableError, match="404 for its metrics"):
            await sink.deliver([stored(0)])
        with pytest.raises(SinkUnavailableError, match="not a metrics page"):
            await sink.deliver([stored(0)])
        await sink.close()
        await runner.cleanup()

    asyncio.run(main())
