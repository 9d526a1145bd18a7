"""The routes by which events come home: batches and gaps of a host's streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from sib_protocol.batches import decode_lines
from sib_protocol.errors import MalformedMessageError
from sib_protocol.ids import LineNumber, parse_stream_id
from sib_protocol.limits import MAX_BATCH_BODY_BYTES, MAX_MESSAGE_BYTES
from sib_protocol.messages import GapReport, StreamAnswer, decode_message
from sib_server.errors import RefusedError
from sib_server.events.failures import (
    JournalBusyError,
    JournalDamagedError,
    JournalError,
    JournalUnavailableError,
)
from sib_server.events.incoming import Accepted, IncomingBatch, IncomingGap, Refused, Wanted
from sib_server.listener.answers import message_response
from sib_server.listener.bodies import MemoryBudget, read_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from sib_protocol.ids import StreamId
    from sib_server.events.incoming import Incoming
    from sib_server.events.writer import JournalWriter
    from sib_server.fleet.policy import AuthenticatedHost

# Below this a thread's hand-over costs more than the decompression that it takes off the loop,
# and not even a bomb takes long.
_THREAD_BYTES: Final = 4 * 1024
_MAX_NUMBER: Final = 2**62


class StreamRefusedError(RefusedError):
    """A stream that is another host's, or numbers that cannot be."""

    code = "stream_refused"
    status = 403


class UnknownStreamError(RefusedError):
    """A stream of which the journal has nothing."""

    code = "unknown_stream"
    status = 404

    def __init__(self, stream: StreamId) -> None:
        super().__init__(f"there is no stream {stream} of this host here")
        self.stream = stream


class JournalNotReadyError(RefusedError):
    """The journal takes nothing now; everything accepted before is safe."""

    code = "journal_unavailable"
    status = 503


class EventRoutes:
    """The handlers and what they share.

    Args:
        writer: the journal's.
        host_of: who sends a request; raises RefusedError.
        memory: what all batches in memory may take, bytes.

    Attributes:
        budget: how much of it is taken.
        gaps_reported: gaps that were new.
        lines_lost: lines in them.
    """

    def __init__(
        self,
        writer: JournalWriter,
        host_of: Callable[[Request], Awaitable[AuthenticatedHost]],
        *,
        memory: int = 256 * 1024 * 1024,
    ) -> None:
        self._writer = writer
        self._host_of = host_of
        self.budget = MemoryBudget(memory)
        self.gaps_reported = 0
        self.lines_lost = 0

    def routes(self) -> list[Route]:
        """The routes for Starlette."""
        return [
            Route("/v1/streams/{stream}", self.stream, methods=["GET"]),
            Route("/v1/streams/{stream}/events", self.events, methods=["POST"]),
            Route("/v1/streams/{stream}/gaps", self.gaps, methods=["POST"]),
        ]

    async def stream(self, request: Request) -> Response:
        """``GET /v1/streams/{stream}``: where a stream stands; 404 for one that is not known."""
        host = await self._host_of(request)
        stream = parse_stream_id(request.path_params["stream"])
        try:
            standing = await self._writer.run(lambda journal: journal.standing(stream))
        except JournalError as error:
            # As below: no paths of the server's for a host.
            raise JournalNotReadyError("the server cannot look now", retry_after=5.0) from error
        # Another host's stream is not known to this one.
        if standing is None or standing.host_id != host.host_id:
            raise UnknownStreamError(stream)
        return message_response(StreamAnswer(standing.next))

    async def events(self, request: Request) -> Response:
        """``POST /v1/streams/{stream}/events?first=N``: a batch."""
        host = await self._host_of(request)
        stream = parse_stream_id(request.path_params["stream"])
        first = _number(request.query_params.get("first", ""))
        with self.budget.share() as share:
            body = await read_body(request, MAX_BATCH_BODY_BYTES, share=share)
            if len(body) < _THREAD_BYTES:
                lines = decode_lines(body)
            else:
                lines = await asyncio.to_thread(decode_lines, body)
            share.take(sum(map(len, lines)))
            batch = IncomingBatch(stream, host.host_id, host.host_name, first, lines)
            return await self._submit(batch)

    async def gaps(self, request: Request) -> Response:
        """``POST /v1/streams/{stream}/gaps``: lines that will never come."""
        host = await self._host_of(request)
        stream = parse_stream_id(request.path_params["stream"])
        gap = decode_message(await read_body(request, MAX_MESSAGE_BYTES), GapReport)
        if not 0 <= gap.first <= gap.last <= _MAX_NUMBER:
            raise MalformedMessageError(f"lines {gap.first} to {gap.last} are no gap")
        return await self._submit(
            IncomingGap(
                stream,
                host.host_id,
                host.host_name,
                LineNumber(gap.first),
                LineNumber(gap.last),
                gap.reason,
            )
        )

    async def _submit(self, entry: Incoming) -> Response:
        try:
            outcome = await self._writer.submit(entry)
        except JournalBusyError as error:
            raise JournalNotReadyError(
                error.problem, error.remedy, retry_after=error.retry_after_seconds
            ) from error
        except (JournalUnavailableError, JournalDamagedError) as error:
            # The file's path and state are the server's business, not a host's.
            raise JournalNotReadyError(
                "the server cannot store events now", "it is retried", retry_after=5.0
            ) from error
        match outcome:
            case Accepted(next=next_number, skipped=skipped):
                if isinstance(entry, IncomingGap):
                    self._count_gap(entry.last - entry.first + 1 - skipped)
                return message_response(StreamAnswer(next_number))
            case Wanted(next=next_number):
                return message_response(StreamAnswer(next_number), 409)
            case Refused(error=cause):
                raise StreamRefusedError(cause.problem, cause.remedy)

    def _count_gap(self, lines: int) -> None:
        # A gap that is told again is no new one.
        if lines > 0:
            self.gaps_reported += 1
            self.lines_lost += lines


def _number(text: str) -> LineNumber:
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > _MAX_NUMBER:
        raise MalformedMessageError(f"first={text[:40]!r} is not a line number")
    return LineNumber(int(text))
