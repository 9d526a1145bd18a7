"""The listener with its real application, over real sockets, with short limits."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sib_agent.enrollment import enroll, renew
from sib_protocol.errors import ExitCode
from sib_protocol.identity import IdentityStore, identity_context, server_trust
from sib_protocol.ids import HostName, new_stream_id
from sib_protocol.messages import GapReason, GapReport, encode_message
from sib_server.application import make_application
from sib_server.events.failures import (
    JournalBusyError,
    JournalDamagedError,
    JournalUnavailableError,
)
from sib_server.listener.bodies import BodyPace, MemoryBudget, OverloadedError, read_body
from sib_server.listener.gate import ConnectionGate, GateLimits, Visitor
from sib_server.listener.listener import Listener, ListenError, bind
from sib_server.listener.protocol import PeerLimits
from tests.support.live import LiveServer
from tests.support.proxy import wait_for
from tests.support.wire import Wire, connect

SHORT = PeerLimits(
    handshake_seconds=1.0,
    handshakes=4,
    crowded_seconds=0.2,
    head_seconds=1.0,
    head_bytes=2048,
    pipelined=3,
    idle_seconds=3,
    stranger_idle_seconds=1,
)


async def slow(_request: Request) -> Response:
    await asyncio.sleep(0.5)
    return PlainTextResponse("slept")


async def broken(_request: Request) -> Response:
    raise RuntimeError("a planted failure")


async def body_of(request: Request) -> Response:
    return PlainTextResponse(str(len(await read_body(request, 1000, pace=BodyPace(0.5, 1000)))))


ROUTES = [
    Route("/slow", slow),
    Route("/broken", broken),
    Route("/body", body_of, methods=["POST"]),
]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    made = LiveServer(
        tmp_path,
        limits=SHORT,
        gate=GateLimits(connections=8, known_each=3, strangers=6, strangers_each=5),
        more_routes=ROUTES,
    )
    yield made
    made.close()


@pytest.fixture
def stranger(live: LiveServer) -> Iterator[Callable[[], Wire]]:
    opened: list[Wire] = []

    def open_one() -> Wire:
        opened.append(connect(live.port, server_trust(live.authority.certificate_pem), seconds=8))
        return opened[-1]

    yield open_one
    for wire in opened:
        wire.close()


@pytest.fixture
def store(live: LiveServer, tmp_path: Path) -> IdentityStore:
    """An enrolled host's."""
    made = IdentityStore(tmp_path / "identity")
    enroll(live.token(), HostName("web-1"), made)
    return made


@pytest.fixture
def known(live: LiveServer, store: IdentityStore) -> Iterator[Callable[[], Wire]]:
    opened: list[Wire] = []

    def open_one() -> Wire:
        opened.append(connect(live.port, identity_context(store), seconds=8))
        return opened[-1]

    yield open_one
    for wire in opened:
        wire.close()


def test_batches_gaps_and_standing(known: Callable[[], Wire], live: LiveServer) -> None:
    wire, stream = known(), new_stream_id()
    assert wire.ask("GET", f"/v1/streams/{stream}").error == "unknown_stream"
    assert wire.deliver(stream, 0, b"a", b"b").json() == {"next": 2}
    assert wire.deliver(stream, 1, b"b", b"c").json() == {"next": 3}
    answer = wire.deliver(stream, 9, b"x")
    assert (answer.status, answer.json()) == (409, {"next": 3})
    path = f"/v1/streams/{stream}/gaps"
    gap = encode_message(GapReport(3, 7, GapReason.QUOTA))
    for _ in range(2):
        assert wire.ask("POST", path, gap).json() == {"next": 8}
    assert (live.events.gaps_reported, live.events.lines_lost) == (1, 5)
    backwards = encode_message(GapReport(9, 8, GapReason.QUOTA))
    assert wire.ask("POST", path, backwards).status == 400
    assert wire.ask("GET", f"/v1/streams/{stream}").json() == {"next": 8}
    large = [b"%d" % number * 400 for number in range(200)]
    assert wire.deliver(stream, 8, *large).json() == {"next": 208}
    incompressible = [bytes(range(11, 256)) * 300 for _ in range(3)]
    assert wire.deliver(stream, 208, *incompressible).status == 200
    assert live.events.budget.used == 0
    other = new_stream_id()
    assert wire.deliver(other, 2**62, b"x").status in {200, 403}


@pytest.mark.parametrize(
    ("failure", "wait"),
    [
        (JournalBusyError, "1"),
        (JournalUnavailableError, "5"),
        (JournalDamagedError, "5"),
    ],
)
def test_a_journal_that_takes_nothing_is_told_without_its_path(
    known: Callable[[], Wire],
    live: LiveServer,
    tmp_path: Path,
    failure: Callable[..., Exception],
    wait: str,
) -> None:
    secret = tmp_path / "secret.db"
    error = failure(7) if failure is JournalBusyError else failure(secret, "the disk is full")
    assert failure is JournalBusyError or "secret" in str(error)

    async def fail(*_arguments: object) -> None:
        raise error

    wire = known()
    with (
        mock.patch.object(live.writer, "submit", fail),
        mock.patch.object(live.writer, "run", fail),
    ):
        answers = [
            wire.deliver(new_stream_id(), 0, b"x"),
            wire.ask("GET", f"/v1/streams/{new_stream_id()}"),
        ]
    assert [(one.status, one.error) for one in answers] == [(503, "journal_unavailable")] * 2
    assert answers[0].headers["retry-after"] == wait
    assert not any("secret" in one.body.decode() for one in answers)
    assert wire.deliver(new_stream_id(), 0, b"x").status == 200


def test_health_and_renewal_need_a_certificate(
    known: Callable[[], Wire], stranger: Callable[[], Wire]
) -> None:
    for path in ("/v1/health", "/v1/renew"):
        assert stranger().ask("POST", path, b"{}").status == 401
        assert known().ask("POST", path, b"{}").status == 400


def test_a_failure_is_told_to_nobody_but_the_log(
    stranger: Callable[[], Wire], caplog: pytest.LogCaptureFixture
) -> None:
    answer = stranger().ask("GET", "/broken")
    assert (answer.status, answer.error) == (500, "internal")
    assert "planted" not in answer.body.decode()
    assert any("GET /broken failed" in record.message for record in caplog.records)


def test_heads_are_bounded_in_size_and_time(stranger: Callable[[], Wire]) -> None:
    for head in (b"GET / HTTP/1.1\r\nX: " + b"x" * 5000, b"G" * 5000):
        wire = stranger()
        wire.send(head)
        answer = wire.answer()
        assert answer is None or answer.status == 400
    start = time.monotonic()
    wire = stranger()
    assert wire.hung_up(9)
    # The usual limit is ten seconds.
    assert 0.8 < time.monotonic() - start < 8
    wire = stranger()
    assert wire.ask("GET", "/v1/ca").status == 200
    wire.send(b"GET /v1/ca HTTP/1.1\r\nX:")
    assert wire.hung_up(9)
    rested = stranger()
    assert rested.ask("GET", "/v1/ca").status == 200
    assert rested.hung_up(9)


def test_trailers_and_chunk_extensions_are_bounded(stranger: Callable[[], Wire]) -> None:
    for rest in (b"0\r\n" + b"X: y\r\n" * 2000, b"1;" + b"x" * 10_000):
        wire = stranger()
        wire.send(b"POST /v1/enroll HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        time.sleep(0.1)
        with suppress(ConnectionError, ssl.SSLError):
            wire.send(rest)
        assert wire.answer() is None
    wire = stranger()
    wire.send(
        b"POST /v1/enroll HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1;a=b\r\n{\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n"
    )
    answer = wire.answer()
    assert answer is not None
    assert answer.error == "malformed"
    assert wire.ask("GET", "/v1/ca").status == 200


def test_the_rest_of_an_answered_body_has_little_time(stranger: Callable[[], Wire]) -> None:
    wire = stranger()
    wire.send(b"GET /v1/ca HTTP/1.1\r\nContent-Length: 100000\r\n\r\nxx")
    assert wire.answer() is not None
    start = time.monotonic()
    with suppress(ConnectionError, ssl.SSLError):
        while time.monotonic() - start < 9:
            wire.send(b"x")
            time.sleep(0.05)
    assert time.monotonic() - start < 8
    # Who sends the rest in time goes on.
    wire = stranger()
    wire.send(b"GET /v1/ca HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
    assert wire.answer() is not None
    wire.send(b"x" * 1000)
    assert wire.ask("GET", "/v1/ca").status == 200


def test_few_requests_may_wait_behind_one(stranger: Callable[[], Wire]) -> None:
    wire = stranger()
    wire.send(b"GET /slow HTTP/1.1\r\n\r\n" * 4)
    for _ in range(4):
        answer = wire.answer()
        assert answer is not None
        assert answer.body == b"slept"
    wire.send(b"GET /slow HTTP/1.1\r\n\r\n" * 6)
    assert wire.answer() is None


def test_broken_http_is_refused_as_json_and_never_inside_another_answer(
    stranger: Callable[[], Wire],
) -> None:
    wire = stranger()
    wire.send(b"nonsense\r\n\r\n")
    answer = wire.answer()
    assert answer is not None
    assert (answer.status, answer.error) == (400, "malformed")
    wire = stranger()
    wire.send(b"GET /slow HTTP/1.1\r\n\r\nnonsense\r\n\r\n")
    assert wire.answer() is None


def test_bodies_are_bounded_in_size_time_and_sum(
    stranger: Callable[[], Wire], live: LiveServer
) -> None:
    assert stranger().ask("POST", "/body", b"x" * 1000).body == b"1000"
    answer = stranger().ask("POST", "/body", b"x" * 1001)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    wire = stranger()
    wire.send(b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5dc\r\n" + b"x" * 1500)
    late = wire.answer()
    assert late is not None
    assert late.error == "too_large"
    wire = stranger()
    wire.send(b"POST /body HTTP/1.1\r\nContent-Length: 10\r\n\r\nx")
    late = wire.answer()
    assert late is not None
    assert (late.status, late.error) == (408, "too_slow")


def test_memory_is_shared_out_and_given_back() -> None:
    budget = MemoryBudget(100)
    with budget.share() as first:
        # One request always has room.
        first.take(150)
        with budget.share() as second, pytest.raises(OverloadedError) as caught:
            second.take(1)
        assert caught.value.retry_after == 1.0
        assert budget.used == 150
    assert budget.used == 0


def test_strangers_and_hosts_have_their_room(
    live: LiveServer, stranger: Callable[[], Wire], known: Callable[[], Wire]
) -> None:
    strangers = [stranger() for _ in range(7)]
    alive = sum(wire.try_ask("GET", "/v1/ca") is not None for wire in strangers)
    assert alive == 5
    hosts = [known() for _ in range(5)]
    alive = sum(wire.try_ask("GET", "/v1/ca") is not None for wire in hosts)
    assert alive == 3
    assert live.listener.gate.refused >= 4


def test_another_certificate_is_no_further_room(
    known: Callable[[], Wire], store: IdentityStore
) -> None:
    hosts = [known() for _ in range(2)]
    before = store.load().serial
    assert renew(store).serial != before
    hosts += [known() for _ in range(3)]
    alive = sum(wire.try_ask("GET", "/v1/ca") is not None for wire in hosts)
    assert alive == 3


def test_who_never_ends_its_handshake_gives_way(
    live: LiveServer, known: Callable[[], Wire]
) -> None:
    idle = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(40)]
    start = time.monotonic()
    wire = known()
    assert wire.deliver(new_stream_id(), 0, b"x").status == 200
    assert time.monotonic() - start < 6
    for one in idle:
        one.close()


def test_running_out_of_descriptors_is_survived(
    live: LiveServer, stranger: Callable[[], Wire], caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = live.loop.sock_accept, [OSError(24, "Too many open files")]

    async def accept(listening: socket.socket) -> object:
        if failures:
            raise failures.pop()
        return await real(listening)

    with mock.patch.object(live.loop, "sock_accept", accept):
        with suppress(OSError):
            stranger().try_ask("GET", "/v1/ca")
        assert stranger().ask("GET", "/v1/ca").status == 200
    assert "Too many open files" in caplog.text


def test_stopping_lets_requests_end_and_cuts_off_the_late(tmp_path: Path) -> None:
    async def forever(_request: Request) -> Response:
        await asyncio.sleep(600)
        return Response()

    made = LiveServer(tmp_path, more_routes=[*ROUTES, Route("/forever", forever)])
    context = server_trust(made.authority.certificate_pem)
    ending, late, resting = (connect(made.port, context) for _ in range(3))
    pending = socket.create_connection(("127.0.0.1", made.port))
    ending.send(b"GET /slow HTTP/1.1\r\n\r\n")
    late.send(b"GET /forever HTTP/1.1\r\n\r\n")
    assert resting.ask("GET", "/v1/ca").status == 200
    wait_for("two requests to begin", lambda: len(made.listener._state.tasks) == 2, 20)
    start = time.monotonic()
    made.close()
    assert time.monotonic() - start < 8
    answer = ending.answer()
    assert answer is not None
    assert answer.body == b"slept"
    cut = late.answer()
    assert cut is None or cut.status == 500
    assert resting.answer() is None
    for open_one in (ending, late, resting, pending):
        open_one.close()


def test_a_port_that_cannot_be_had(tmp_path: Path) -> None:
    taken = bind("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ListenError, match=f"port {port}") as caught:
        bind("127.0.0.1", port)
    assert caught.value.exit_code is ExitCode.CONFLICT
    for address in ("192.0.2.1", "2001:db8::1"):
        with pytest.raises(ListenError):
            bind(address, 0)
    taken.close()
    everywhere = bind("::", 0)
    with socket.create_connection(("127.0.0.1", _listen(everywhere))):
        pass
    everywhere.close()
    with mock.patch.object(socket.socket, "bind", side_effect=[OSError(99, "no IPv6"), None]):
        fallback = bind("::", 0)
    assert fallback.family is socket.AF_INET
    fallback.close()
    with (
        mock.patch("socket.socket", side_effect=OSError(24, "Too many open files")),
        pytest.raises(ListenError, match="Too many"),
    ):
        bind("127.0.0.1", 0)

    async def start() -> None:
        late = Listener(make_application([]), taken_again, tls=None)
        with (
            mock.patch.object(socket.socket, "listen", side_effect=OSError(98, "in use")),
            pytest.raises(ListenError, match="in use"),
        ):
            await late.start()
        await late.stop()

    taken_again = bind("127.0.0.1", 0)
    asyncio.run(start())


def _listen(listening: socket.socket) -> int:
    listening.listen()
    port: int = listening.getsockname()[1]
    return port


def test_the_gate_counts() -> None:
    gate = ConnectionGate(GateLimits(connections=3, known_each=2, strangers=2, strangers_each=1))
    host, other = Visitor("a", known=True), Visitor("b", known=True)
    guest, second, third = (Visitor(name, known=False) for name in "xyz")
    assert [gate.enter(guest), gate.enter(guest)] == [True, False]
    assert [gate.enter(second), gate.enter(third)] == [True, False]
    assert [gate.enter(host), gate.enter(other)] == [True, False]
    assert (gate.open, gate.strangers, gate.refused) == (3, 2, 3)
    gate.leave(guest)
    assert [gate.enter(host), gate.enter(host)] == [True, False]
    for visitor in (host, host, second):
        gate.leave(visitor)
    assert (gate.open, gate.strangers) == (0, 0)
    assert not gate._each
