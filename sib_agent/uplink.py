"""Sending the spool's lines home.

One batch is under way at a time; with a backlog the next is compressed meanwhile. There is no delay
to collect lines: an idle spool sends what it has at once, and while an answer is awaited lines
gather by themselves, so that batches grow with the load.
"""

from __future__ import annotations

import logging
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from sib_agent.client import ServerBusyError, ServerRefusedError, ServerUnreachableError
from sib_agent.spool.records import Batch, Gap
from sib_protocol.backoff import Backoff
from sib_protocol.batches import encode_lines
from sib_protocol.errors import FileAccessError, MalformedMessageError, SibError
from sib_protocol.ids import LineNumber
from sib_protocol.limits import MAX_BATCH_LINES
from sib_protocol.messages import GapReason, GapReport, StreamAnswer, encode_message

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sib_agent.client import ServerClient
    from sib_agent.spool.spool import Spool

_log: Final = logging.getLogger(__name__)
_WAIT_SECONDS: Final = 1.0
_LINES: Final = min(8192, MAX_BATCH_LINES)
_BACKLOG_LINES: Final = 256


class LinkState(Enum):
    """How the way to the server is."""

    STARTING = "starting"
    CONNECTED = "connected"
    WAITING = "waiting"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class UplinkState:
    """What the uplink has done since it was made.

    Attributes:
        link: how the way to the server is.
        problem: why it is not connected, else ``None``.
        lines_sent: lines that the server acknowledged.
        batches_sent: batches that it acknowledged.
        bytes_sent: what these took on the wire.
        failures: tries that failed.
        gaps: gaps that were reported.
    """

    link: LinkState = LinkState.STARTING
    problem: str | None = None
    lines_sent: int = 0
    batches_sent: int = 0
    bytes_sent: int = 0
    failures: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """A request that is ready to go.

    Attributes:
        path: where to.
        body: what.
        content_type: what kind.
        gzip: whether the body is compressed.
        first: number of its first line.
        end: number after its last one.
        is_gap: whether it says that these lines are lost.
    """

    path: str
    body: bytes
    content_type: str
    gzip: bool
    first: LineNumber
    end: LineNumber
    is_gap: bool


def pack_batch(stream: str, batch: Batch) -> Parcel:
    """A batch as a request."""
    return Parcel(
        f"/v1/streams/{stream}/events?first={batch.first}",
        encode_lines(batch.lines),
        "application/x-ndjson",
        gzip=True,
        first=batch.first,
        end=LineNumber(batch.first + len(batch.lines)),
        is_gap=False,
    )


def pack_gap(stream: str, gap: Gap) -> Parcel:
    """A gap as a request."""
    return Parcel(
        f"/v1/streams/{stream}/gaps",
        encode_message(GapReport(gap.first, gap.last, gap.reason)),
        "application/json",
        gzip=False,
        first=gap.first,
        end=LineNumber(gap.last + 1),
        is_gap=True,
    )


class Uplink:
    """Sends a spool's lines. :meth:`run` is for one thread; the rest for any.

    Args:
        spool: where from.
        client: where to.
        batch_bytes: how much a batch holds at most, uncompressed.
        backoff: how to wait after failures.
    """

    def __init__(
        self,
        spool: Spool,
        client: ServerClient,
        *,
        batch_bytes: int,
        backoff: Backoff | None = None,
    ) -> None:
        self._spool = spool
        self._client = client
        self._batch_bytes = batch_bytes
        self._backoff = backoff or Backoff()
        self._draw = random.SystemRandom()
        self._packer = ThreadPoolExecutor(1, thread_name_prefix="pack")
        self._next = spool.acknowledged
        # What the server has of this stream can only be lines that were in the spool by now.
        self._written = spool.next
        self._compared = False
        self._packed: Future[Parcel | None] | None = None
        self._hurry = threading.Event()
        self.state = UplinkState()

    def run(self, stop: threading.Event) -> None:
        """Send lines as they come, until told to stop."""
        try:
            while not stop.is_set():
                self._step(stop)
        finally:
            self._packer.shutdown(cancel_futures=True)

    def retry_now(self) -> None:
        """Cut a pause short: the identity was renewed, or the daemon stops."""
        self._hurry.set()

    def _step(self, stop: threading.Event) -> None:
        # Before the request: what is renewed while one is under way shall be tried at once.
        self._hurry.clear()
        try:
            if not self._compared:
                self._compare()
            parcel = self._take()
            if parcel is None:
                self._spool.wait(self._next, _WAIT_SECONDS)
                return
            # A backlog is packed while the answer is awaited; a few lines wait for those that come
            # meanwhile, and go together.
            if self._spool.next - parcel.end >= _BACKLOG_LINES:
                self._packed = self._packer.submit(self._pack, parcel.end)
            answer = self._client.post(
                parcel.path, parcel.body, content_type=parcel.content_type, gzip=parcel.gzip
            )
            self._on_answer(parcel, answer.decode(StreamAnswer).next)
        except (ServerUnreachableError, MalformedMessageError, FileAccessError) as error:
            # A spool on a full or failing disk is waited out like a server that is away.
            self._on_failure(error, LinkState.WAITING, 0.0, stop)
        except ServerBusyError as error:
            self._on_failure(error, LinkState.WAITING, error.retry_after or 0.0, stop)
        except ServerRefusedError as error:
            # Removed or revoked, perhaps by mistake: the lines stay until somebody decides.
            self._on_failure(error, LinkState.REFUSED, 0.0, stop)

    def _compare(self) -> None:
        """Once, before anything is sent: has the server more than this spool ever wrote?

        Then the spool was put back (a snapshot, a backup). New lines under numbers that the server
        has would be taken for repetitions, so they go into a new stream.
        """
        try:
            answer = self._client.get(f"/v1/streams/{self._spool.stream}")
        except ServerRefusedError as error:
            if error.code != "unknown_stream":
                raise
        else:
            known = answer.decode(StreamAnswer).next
            if known > self._written:
                _log.error(
                    "this spool was put back: going on in a new stream",
                    extra={"fields": {"server_next": known, "written": self._written}},
                )
                self._spool.begin_stream()
        self._compared = True
        self._connected()

    def _connected(self) -> None:
        self._backoff = self._backoff.succeeded()
        if self.state.link is not LinkState.CONNECTED:
            _log.info("connected to the server")
        self.state = replace(self.state, link=LinkState.CONNECTED, problem=None)

    def _take(self) -> Parcel | None:
        packed, self._packed = self._packed, None
        if packed is not None:
            parcel = packed.result()
            if parcel is not None and parcel.first == self._next:
                return parcel
        return self._pack(self._next)

    def _pack(self, first: LineNumber) -> Parcel | None:
        found = self._spool.read(first, self._batch_bytes, _LINES)
        if found is None:
            return None
        if isinstance(found, Gap):
            return pack_gap(self._spool.stream, found)
        return pack_batch(self._spool.stream, found)

    def _on_answer(self, parcel: Parcel, wanted: int) -> None:
        """The server stands at ``wanted``: acknowledge up to there and go on from there."""
        oldest = self._spool.acknowledged
        if wanted < oldest:
            # Its journal was put back since: what it wants is gone here, and it must know.
            gap = Gap(LineNumber(wanted), LineNumber(oldest - 1), GapReason.ACKNOWLEDGED)
            self._report_forgotten(gap)
            return
        if wanted > self._spool.next:
            raise MalformedMessageError(
                f"the server wants line {wanted}, and {self._spool.next} is not written yet"
            )
        accepted = LineNumber(wanted)
        self._spool.acknowledge(accepted)
        self._next = accepted
        self._connected()
        state = self.state
        if parcel.is_gap:
            self.state = replace(state, gaps=state.gaps + 1)
            return
        self.state = replace(
            state,
            lines_sent=state.lines_sent + max(0, min(accepted, parcel.end) - parcel.first),
            batches_sent=state.batches_sent + 1,
            bytes_sent=state.bytes_sent + len(parcel.body),
        )

    def _report_forgotten(self, gap: Gap) -> None:
        _log.warning(
            "the server's journal was put back",
            extra={"fields": {"first": gap.first, "last": gap.last}},
        )
        parcel = pack_gap(self._spool.stream, gap)
        answer = self._client.post(parcel.path, parcel.body, content_type=parcel.content_type)
        wanted = answer.decode(StreamAnswer).next
        if wanted <= gap.last:
            # Asked again at once it would say the same again, for ever.
            raise MalformedMessageError(
                f"the server wants line {wanted}, and was told that all to {gap.last} are gone"
            )
        self._on_answer(parcel, wanted)

    def _on_failure(
        self, error: SibError, link: LinkState, at_least: float, stop: threading.Event
    ) -> None:
        state = self.state
        if state.problem != error.problem:
            _log.warning("cannot send events: %s", error.problem)
        self._backoff = self._backoff.failed()
        self._next = self._spool.acknowledged
        self.state = replace(state, link=link, problem=error.problem, failures=state.failures + 1)
        if not stop.is_set():
            self._hurry.wait(self._backoff.wait(self._draw, at_least=at_least))
