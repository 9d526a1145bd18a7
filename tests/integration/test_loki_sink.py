"""The sink Loki against a real Loki and against the fake: the same tests, so that the fake is held
to what the real one does."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from sib_server.events.sinks.base import DeliveryReport, SinkUnavailableError
from sib_server.events.sinks.loki import LokiSink
from sib_server.events.sinks.settings import LokiSinkSettings
from sib_server.events.stored import StoredEvent
from tests.fakes.control import Failure
from tests.fakes.events import SECOND, stored
from tests.fakes.loki import FakeLoki, Limits
from tests.support.components import FakeLokiProgram, Loki, RealLoki, get, post_json

HOUR = 3600 * SECOND
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=["fake", "real"])
def loki(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loki]:
    directory = tmp_path_factory.mktemp(request.param)
    program = RealLoki(directory) if request.param == "real" else FakeLokiProgram(directory)
    program.start()
    yield program
    program.kill()


@pytest.fixture
def host() -> str:
    return f"h-{uuid.uuid4()}"


def deliver(loki: Loki, *batches: Sequence[StoredEvent]) -> list[DeliveryReport]:
    async def scenario() -> list[DeliveryReport]:
        sink = LokiSink(LokiSinkSettings(url=loki.url))
        try:
            reports = []
            for batch in batches:
                async with asyncio.timeout(60):
                    while True:
                        # A rate limit of earlier tests, waited out as the loop would.
                        with suppress(SinkUnavailableError):
                            reports.append(await sink.deliver(batch))
                            break
                        await asyncio.sleep(0.3)
            return reports
        finally:
            await sink.close()

    return asyncio.run(scenario())


def numbers(loki: Loki, host: str, page: int = 5000) -> list[int]:
    held = loki.held(f'{{host="{host}"}}', page)
    return sorted(int(labels["event_id"].rpartition("/")[2]) for _, _, labels in held)


def push(
    loki: Loki, streams: list[tuple[dict[str, str], list[tuple[int, str]]]]
) -> tuple[int, str]:
    content = {
        "streams": [
            {"stream": labels, "values": [[str(at), line] for at, line in entries]}
            for labels, entries in streams
        ]
    }
    return post_json(f"{loki.url}/loki/api/v1/push", content)


def test_events_arrive_once_with_their_labels_however_often_they_are_sent(
    loki: Loki, host: str
) -> None:
    now = time.time_ns()
    events = [stored(n, time_ns=now + n, host=host) for n in range(50)]
    (first, _) = deliver(loki, events, events[20:30])
    assert (first.accepted, first.adjusted, first.refused_count) == (50, 0, 0)
    deliver(loki, events[:10])
    held = loki.held(f'{{host="{host}",source="syscall",priority="Warning"}}')
    assert [(at, line.encode()) for at, line, _ in held] == [
        (event.summary.time_ns, event.line) for event in events
    ]
    assert {labels["rule"] for _, _, labels in held} == {"A rule"}
    assert numbers(loki, host) == list(range(50))


def test_what_loki_refuses_of_an_event_is_changed_and_nothing_else(loki: Loki, host: str) -> None:
    now = time.time_ns()
    events = [
        stored(0, time_ns=now, host=host),
        stored(1, time_ns=now - HOUR // 2, host=host),
        stored(2, time_ns=now - 30 * 24 * HOUR, host=host),
        stored(3, time_ns=now + 24 * HOUR, host=host),
        stored(4, line=b"\xff\xfe not UTF-8", host=host),
        stored(5, line=b"", host=host),
        stored(6, line="é".encode() * 150_000, host=host),
        stored(7, time_ns=now - HOUR // 2, host=host, rule="r" * 100_000),
    ]
    (report,) = deliver(loki, events)
    assert (report.accepted, report.adjusted, report.truncated) == (8, 2, 1)
    held = {
        int(labels["event_id"].rpartition("/")[2]): (at, line, labels)
        for at, line, labels in loki.held(f'{{host="{host}"}}')
    }
    assert numbers(loki, host) == list(range(8)), "each exactly once"
    assert held[2][2]["sib_event_time"] == str(now - 30 * 24 * HOUR)
    assert held[2][0] == events[2].received_ns
    assert held[3][0] == events[3].received_ns
    assert held[4][1] == "\ufffd\ufffd not UTF-8"
    assert held[4][2]["sib_invalid_utf8"] == "true"
    assert held[6][1] == "é" * 131_072
    assert held[6][2]["sib_truncated"] == "300000"
    assert "sib_event_time" not in held[0][2]


def test_a_long_run_of_late_events_costs_few_requests(loki: Loki, host: str) -> None:
    now = time.time_ns()
    fresh = [stored(0, time_ns=now, host=host)]
    late = [stored(n, time_ns=now - 5 * HOUR + n * SECOND, host=host) for n in range(1, 400)]

    async def scenario() -> int:
        sink = LokiSink(LokiSinkSettings(url=loki.url))
        pushes = 0
        original = sink._push

        async def counted(request: object) -> object:
            nonlocal pushes
            pushes += 1
            return await original(request)  # type: ignore[arg-type]

        sink._push = counted  # type: ignore[assignment, method-assign]
        await sink.deliver(fresh)
        for at in range(0, len(late), 50):
            report = await sink.deliver(late[at : at + 50])
            assert report.adjusted == report.accepted
        await sink.close()
        return pushes

    assert asyncio.run(scenario()) <= 1 + 8 + 1
    assert numbers(loki, host) == list(range(400))


def test_streams_that_loki_does_not_answer_for_are_not_lost(loki: Loki, host: str) -> None:
    """The reason for plan(): see test_loki_answers_for_the_last_stream_only."""
    now = time.time_ns()
    hosts = [f"{host}-{n}" for n in range(5)]
    fresh = [stored(n, time_ns=now, host=name) for n, name in enumerate(hosts)]
    late = [
        stored(10 + n, time_ns=now - (2 * HOUR if n < 4 else 0), host=name)
        for n, name in enumerate(hosts)
    ]
    deliver(loki, fresh, late)
    for n, name in enumerate(hosts):
        assert numbers(loki, name) == [n, 10 + n]


def test_loki_answers_for_the_last_stream_only(loki: Loki, host: str) -> None:
    now = time.time_ns()
    a, b = {"host": host, "t": "a"}, {"host": host, "t": "b"}
    assert push(loki, [(a, [(now, "x")]), (b, [(now, "x")])]) == (204, "")
    late = (a, [(now - 2 * HOUR, "late")])
    assert push(loki, [late, (b, [(now + 1, "y")])]) == (204, ""), "refused, and not told"
    status, text = push(loki, [(b, [(now + 2, "z")]), late])
    assert status == 400
    assert "total ignored: 1 out of 1 for stream" in text
    assert [line for _, line, _ in loki.held(f'{{host="{host}"}}')] == ["x", "x", "y", "z"]


def test_limits_and_their_words(loki: Loki, host: str) -> None:
    now = time.time_ns()
    one = {"host": host}
    status, text = push(
        loki,
        [
            (
                one,
                [
                    (now - 200 * HOUR, "old"),
                    (now + HOUR, "new"),
                    (now, "l" * 300_000),
                    (now - 1, "fine"),
                ],
            )
        ],
    )
    assert status == 400
    for words in ("timestamp too old: ", "timestamp too new: ", "max entry size '262144' bytes"):
        assert f"1 errors like: {words}" in text or words in text
    assert text.count("1 errors like: ") == 3
    assert [line for _, line, _ in loki.held(f'{{host="{host}"}}')] == ["fine"]
    status, text = push(loki, [({f"l{n}": "x" for n in range(16)}, [(now, "x")])])
    assert (status, "has 16 label names; limit 15" in text) == (400, True)
    status, text = push(
        loki, [({"host": f"{host}x"}, [(now + n, "l" * 99_000) for n in range(70)])]
    )
    assert (status, "ingestion rate limit exceeded" in text) == (429, True)


def test_a_push_over_loki_s_message_size_is_divided(loki: Loki, host: str) -> None:
    events = [stored(n, line=b"%05d" % n + b"x" * 99_000, host=host) for n in range(45)]

    async def scenario() -> DeliveryReport:
        sink = LokiSink(LokiSinkSettings(url=loki.url, max_request_bytes=16 * 1024 * 1024))
        async with asyncio.timeout(60):
            while True:
                with suppress(SinkUnavailableError):
                    report = await sink.deliver(events)
                    break
                await asyncio.sleep(0.3)
        await sink.close()
        return report

    assert asyncio.run(scenario()).accepted == 45
    assert numbers(loki, host, page=20) == list(range(45))


@pytest.mark.parametrize("days", [-1, 1])
def test_a_server_whose_clock_is_a_day_off_loses_nothing(loki: Loki, host: str, days: int) -> None:
    async def scenario() -> list[DeliveryReport]:
        def wrong() -> int:
            return time.time_ns() + days * 24 * HOUR

        sink = LokiSink(LokiSinkSettings(url=loki.url), now_ns=wrong)
        try:
            known = [stored(n, line=b"known %d" % n, host=host) for n in range(3)]
            # Such a line has no time of its own: the server's is all there is.
            odd = [
                stored(10 + n, line=b"odd %d" % n, received_ns=wrong() + n, host=host)
                for n in range(3)
            ]
            return [await sink.deliver(known), await sink.deliver(odd)]
        finally:
            await sink.close()

    reports = asyncio.run(scenario())
    assert [report.refused_count for report in reports] == [0, 0]
    assert numbers(loki, host) == [0, 1, 2, 10, 11, 12]


def test_what_is_stored_survives_a_kill(loki: Loki, host: str) -> None:
    now = time.time_ns()
    events = [stored(n, time_ns=now + n, host=host) for n in range(20)]
    deliver(loki, events)
    loki.kill()
    with pytest.raises(SinkUnavailableError):
        asyncio.run(_deliver_once(loki.url, events))
    loki.start()
    deliver(loki, events, [stored(20, time_ns=now + 20, host=host)])
    assert numbers(loki, host) == list(range(21))


async def _deliver_once(url: str, events: Sequence[StoredEvent]) -> DeliveryReport:
    sink = LokiSink(LokiSinkSettings(url=url, timeout_seconds=2, tenant="t"))
    try:
        return await sink.deliver(events)
    finally:
        await sink.close()


# What a real Loki does only when it is in trouble: the fake does it on demand.


def with_fake(
    tmp_path: Path,
    scenario: Callable[[FakeLoki, LokiSink], Awaitable[None]],
    limits: Limits | None = None,
) -> None:
    async def main() -> None:
        fake = FakeLoki(tmp_path, limits or Limits())
        url = await fake.start()
        sink = LokiSink(LokiSinkSettings(url=url, timeout_seconds=1))
        try:
            await asyncio.wait_for(scenario(fake, sink), 30)
        finally:
            await sink.close()
            await fake.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    "failure",
    [
        Failure("status", 500, "no", count=1),
        Failure("status", 429, "slow down", count=1, retry_after="7"),
        Failure("status", 404, "", count=1),
        Failure("status", 400, "structured metadata, but this feature is disallowed", count=1),
        Failure("half", count=1),
        Failure("lost", count=1),
        Failure("slow", seconds=1.5, count=1),
    ],
    ids=lambda failure: f"{failure.mode}-{failure.status}",
)
def test_a_loki_in_trouble_gets_the_events_again(tmp_path: Path, failure: Failure) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        fake.failure = failure
        events = [stored(n) for n in range(3)]
        with pytest.raises(SinkUnavailableError) as caught:
            await sink.deliver(events)
        assert caught.value.retry_after == (7 if failure.retry_after else None)
        report = await sink.deliver([*events, stored(3)])
        assert report.accepted == 4
        assert len(fake.entries()) == 4

    with_fake(tmp_path, scenario)


def test_a_stream_that_was_stored_is_not_sent_again_when_another_was_not(tmp_path: Path) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        events = [stored(n, host=f"h{n}") for n in range(4)]
        fake.failure = Failure("status", 500, count=1)
        with pytest.raises(SinkUnavailableError):
            await sink.deliver(events)
        assert len(fake.entries()) == 3
        await sink.deliver(events)
        assert (len(fake.entries()), fake.duplicates) == (4, 0)

    with_fake(tmp_path, scenario)


def test_a_shared_push_that_is_refused_is_sent_by_stream(tmp_path: Path) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        now = time.time_ns()
        await sink.deliver([stored(n, host=f"h{n}") for n in range(6)])
        before = fake.requests
        await sink.deliver([stored(10 + n, host=f"h{n}") for n in range(6)])
        assert fake.requests == before + 1, "streams that are known share a request"
        events = [
            stored(20 + n, host=f"h{n}", time_ns=now + (24 * HOUR if n == 2 else 0))
            for n in range(6)
        ]
        report = await sink.deliver(events)
        assert (report.accepted, report.adjusted) == (6, 1)
        assert len(fake.entries()) == 18

    with_fake(tmp_path, scenario)


def test_an_event_that_is_refused_for_no_known_reason_is_found_and_counted(tmp_path: Path) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        original = fake._problem

        def picky(text: str, entry: object, now: int) -> str | None:
            if "event 13" in entry.line:  # type: ignore[attr-defined]
                return "something about it"
            return original(text, entry, now)  # type: ignore[arg-type]

        fake._problem = picky  # type: ignore[method-assign]
        report = await sink.deliver([stored(n) for n in range(40)])
        assert report.refused == {"other": 1}
        assert report.accepted == 39
        assert len(fake.entries()) == 39
        assert fake.requests < 20

    with_fake(tmp_path, scenario)


def test_a_rate_limit_below_a_whole_request_shrinks_the_requests(tmp_path: Path) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        events = [stored(n, line=b"%05d" % n + b"x" * 20_000) for n in range(100)]
        for _ in range(40):
            with suppress(SinkUnavailableError):
                await sink.deliver(events)
                break
            await asyncio.sleep(0.05)
        assert len(fake.entries()) == 100

    with_fake(tmp_path, scenario, Limits(rate=4_000_000, burst=300_000))


def test_a_line_that_no_message_can_hold_is_truncated_until_it_fits(tmp_path: Path) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        report = await sink.deliver([stored(0, line=b"x" * 5_000_000), stored(1, line=b"y")])
        assert (report.accepted, report.truncated) == (2, 1)
        assert len(fake.entries()) == 2
        tiny = await sink.deliver([stored(2, line=b"z" * 50_000)])
        assert tiny.truncated == 0

    with_fake(
        tmp_path, scenario, Limits(rate=1e9, burst=1e9, message_bytes=100_000, line_bytes=1 << 30)
    )


def test_times_that_are_refused_even_as_now_are_counted(tmp_path: Path) -> None:
    async def scenario(fake: FakeLoki, sink: LokiSink) -> None:
        report = await sink.deliver([stored(0), stored(1)])
        assert report.refused == {"timestamp": 2}

    with_fake(tmp_path, scenario, Limits(ahead_ns=-24 * HOUR))


def test_the_fake_fails_over_http_and_tells_what_it_holds(tmp_path: Path) -> None:
    program = FakeLokiProgram(tmp_path)
    program.start()
    try:
        post_json(f"{program.url}/_fake/fail", {"mode": "status", "status": 429, "count": 1})
        assert push(program, [({"a": "b"}, [(time.time_ns(), "x")])])[0] == 429
        assert push(program, [({"a": "b"}, [(time.time_ns(), "x")])])[0] == 204
        stats = json.loads(get(f"{program.url}/_fake/stats"))
        assert stats == {"requests": 2, "entries": 1, "duplicates": 0}
    finally:
        program.kill()
