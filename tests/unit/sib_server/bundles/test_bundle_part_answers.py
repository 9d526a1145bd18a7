"""Parts on their way to hosts that take them, go away, or let the server wait."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.routing import Route

from sib_server.detection.bundles.routes import PartAnswer
from sib_server.detection.bundles.shelf import Document
from sib_server.listener.bodies import BodyPace
from tests.support.live import LiveServer
from tests.support.proxy import wait_for
from tests.support.wire import Wire, connect

# More than the kernel's buffers on both sides hold.
LARGE = Document.of(random.Random(1).randbytes(16 * 2**20))
SMALL = Document.of(random.Random(2).randbytes(300_001))
EMPTY = Document.of(b"")


class Server:
    def __init__(self, directory: Path) -> None:
        self.left = self.finished = 0
        paths = {"/large": LARGE, "/small": SMALL, "/empty": EMPTY}
        routes = [Route(path, self.answer(document)) for path, document in paths.items()]
        self.live = LiveServer(directory, more_routes=routes, tls=False)

    def answer(self, document: Document) -> Callable[[Request], Awaitable[PartAnswer]]:
        def leave() -> None:
            self.left += 1

        def finished() -> None:
            self.finished += 1

        async def route(_request: Request) -> PartAnswer:
            return PartAnswer(document, leave, finished, pace=BodyPace(2.0, 10**9))

        return route

    def wire(self) -> Wire:
        return connect(self.live.port, None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.live.close()


def test_a_part_comes_whole_and_its_connection_carries_the_next(server: Server) -> None:
    wire = server.wire()
    for document, path in ((SMALL, "/small"), (EMPTY, "/empty"), (LARGE, "/large")):
        answer = wire.ask("GET", path)
        assert (answer.status, answer.headers["etag"]) == (200, document.etag)
        assert answer.headers["content-type"] == "application/gzip"
        assert answer.body == document.content
    wire.close()
    assert (server.left, server.finished) == (3, 3)


def test_what_a_host_went_away_from_is_not_counted_as_sent(server: Server) -> None:
    wire = server.wire()
    wire.send(b"GET /large HTTP/1.1\r\nHost: sib\r\n\r\n")
    wire.socket.recv(1000)
    wire.close()
    wait_for("the transfer has ended", lambda: server.left == 1, 10)
    assert server.finished == 0


def test_who_takes_it_too_slowly_is_cut_off_and_nobody_else_waits(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    wire, other = server.wire(), server.wire()
    wire.send(b"GET /large HTTP/1.1\r\nHost: sib\r\n\r\n")
    wire.socket.recv(1000)
    assert other.ask("GET", "/small").body == SMALL.content
    wait_for("the slow one is cut off", lambda: server.left == 2, 20)
    assert server.finished == 1
    assert "taken too slowly" in caplog.text
    assert not any(record.exc_info for record in caplog.records)
    wire.close()
    other.close()
