"""The routes by which hosts ask for bundles and fetch them, for enrolled hosts alone.

Which bundle a host shall have is told by the answer to its health report; ``wanted`` tells the same
where that cannot be had, from memory alone: nothing is stored for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sib_server.errors import RefusedError
from sib_server.listener.answers import message_response
from sib_server.listener.bodies import BodyPace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from sib_server.detection.bundles.desk import BundleDesk
    from sib_server.detection.bundles.shelf import Document
    from sib_server.fleet.policy import AuthenticatedHost

_log: Final = logging.getLogger(__name__)
_PIECE: Final = 128 * 1024
_PACE: Final = BodyPace(patience_seconds=20.0, bytes_per_second=16 * 1024)
_RETRY_SECONDS: Final = 5.0


class NoSuchFileError(RefusedError):
    """A name that is not in the repository now."""

    code = "no_such_file"
    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no {name[:80]!r} here")
        self.name = name


class TooManyTransfersError(RefusedError):
    """Too many parts are under way, in all or to this host."""

    code = "too_many_transfers"
    status = 503

    def __init__(self) -> None:
        super().__init__(
            "too many are fetching bundles now", "it is tried again", retry_after=_RETRY_SECONDS
        )


class Transfers:
    """Counts the parts under way: one for each host, and a number in all.

    Args:
        most: in all.

    Attributes:
        finished: parts that were sent whole.
        refused: requests that came when there were too many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: set[str] = set()
        self.finished = 0
        self.refused = 0

    @property
    def open(self) -> int:
        """How many are under way."""
        return len(self._hosts)

    def enter(self, host_id: str) -> None:
        """Begin one. Raises TooManyTransfersError."""
        if host_id in self._hosts or len(self._hosts) >= self._most:
            self.refused += 1
            raise TooManyTransfersError
        self._hosts.add(host_id)

    def leave(self, host_id: str) -> None:
        """End one."""
        self._hosts.discard(host_id)


class PartAnswer:
    """A part from memory, piece by piece, each when the one before has left: events go in between.

    Args:
        document: what is sent.
        leave: called at the end, however it ends.
        finished: called when all of it was sent.
        pace: how slowly it may be taken.
    """

    def __init__(
        self,
        document: Document,
        leave: Callable[[], None],
        finished: Callable[[], None],
        *,
        pace: BodyPace = _PACE,
    ) -> None:
        self._document = document
        self._pace = pace
        self._leave = leave
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a host that takes it too slowly is cut off."""
        pace = self._pace
        expected = len(self._document.content) / pace.bytes_per_second
        try:
            async with asyncio.timeout(pace.patience_seconds + expected):
                await self._send(Request(scope, receive), send)
        except TimeoutError:
            # An answer that ends early ends the connection, too.
            _log.info("a part was taken too slowly and is cut off")
        finally:
            self._leave()

    async def _send(self, request: Request, send: Send) -> None:
        content = memoryview(self._document.content)
        headers = [
            (b"etag", self._document.etag.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"content-type", b"application/gzip"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # The last one is known as such, and what goes to nobody is not counted as sent.
        places = range(0, max(1, len(content)), _PIECE)
        for place in places:
            gone = place == places[-1] and await request.is_disconnected()
            body = content[place : place + _PIECE]
            more = place != places[-1]
            await send({"type": "http.response.body", "body": body, "more_body": more})
            # Without this a fast reader is given all of it in one turn of the loop.
            await asyncio.sleep(0)
        if not gone:
            self._finished()


class BundleRoutes:
    """The handlers and what they share.

    Args:
        desk: has what is served.
        host_of: who sends a request; raises RefusedError.
        transfers: how many parts may be under way.

    Attributes:
        asked: how often hosts asked what they shall have, by answer: ``new``, ``same``, ``none``.
    """

    def __init__(
        self,
        desk: BundleDesk,
        host_of: Callable[[Request], Awaitable[AuthenticatedHost]],
        *,
        transfers: int = 64,
    ) -> None:
        self._desk = desk
        self._host_of = host_of
        self.transfers = Transfers(transfers)
        self.asked: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        """The routes for Starlette."""
        return [
            Route("/v1/bundle/wanted", self.wanted, methods=["GET"]),
            Route("/v1/bundle/metadata/{name}", self.metadata, methods=["GET"]),
            Route("/v1/bundle/targets/{name}", self.target, methods=["GET"]),
        ]

    async def wanted(self, request: Request) -> Response:
        """``GET /v1/bundle/wanted``."""
        host = await self._host_of(request)
        wanted = self._desk.named(host)
        if wanted is None:
            self.asked["none"] += 1
            return Response(status_code=204)
        headers = {"etag": wanted.etag()}
        if _known(request, wanted.etag()):
            self.asked["same"] += 1
            return Response(status_code=304, headers=headers)
        self.asked["new"] += 1
        response = message_response(self._desk.in_turn(host, wanted))
        response.headers.update(headers)
        return response

    async def metadata(self, request: Request) -> Response:
        """``GET /v1/bundle/metadata/{name}``."""
        await self._host_of(request)
        document = _find(self._desk.shelf.metadata, request)
        if _known(request, document.etag):
            return Response(status_code=304, headers={"etag": document.etag})
        return Response(
            document.content, media_type="application/json", headers={"etag": document.etag}
        )

    async def target(self, request: Request) -> Response | PartAnswer:
        """``GET /v1/bundle/targets/{name}``."""
        host = await self._host_of(request)
        document = _find(self._desk.shelf.targets, request)
        if _known(request, document.etag):
            return Response(status_code=304, headers={"etag": document.etag})
        self.transfers.enter(host.host_id)
        return PartAnswer(
            document, lambda: self.transfers.leave(host.host_id), self._count_finished
        )

    def _count_finished(self) -> None:
        self.transfers.finished += 1


def _find(documents: Mapping[str, Document], request: Request) -> Document:
    name = request.path_params["name"]
    found = documents.get(name)
    if found is None:
        raise NoSuchFileError(name)
    return found


def _known(request: Request, etag: str) -> bool:
    given = request.headers.get("if-none-match", "")
    return etag in (tag.strip() for tag in given.split(","))
