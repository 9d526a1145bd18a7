"""A model server beside the real uplink and spool: lost answers, restored journals, refusals."""

from __future__ import annotations

import copy
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from sib_agent.client import (
    Answer,
    ServerBusyError,
    ServerRefusedError,
    ServerUnreachableError,
)
from sib_agent.spool.errors import SpoolReadError
from sib_agent.spool.records import SourcePosition, fingerprint
from sib_agent.spool.spool import Spool
from sib_agent.uplink import LinkState, Uplink
from sib_protocol.backoff import Backoff
from sib_protocol.batches import decode_lines
from sib_protocol.messages import (
    GapReason,
    GapReport,
    Refusal,
    StreamAnswer,
    decode_message,
    encode_message,
)
from tests.support.proxy import wait_for

FAULTS = [
    "none",
    "unreachable",
    "lost answer",
    "busy",
    "refused",
    "nonsense",
    "too high",
    "cut message",
]


@dataclass
class Stream:
    next: int
    start: int
    lines: dict[int, bytes] = field(default_factory=dict)
    gaps: dict[int, GapReason] = field(default_factory=dict)


class ModelServer:
    """Speaks the protocol as the design says, and nothing else."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self.fault = "none"
        self.ever: dict[str, set[int]] = {}
        self.requests = 0

    def _before(self) -> None:
        self.requests += 1
        if self.fault == "unreachable":
            raise ServerUnreachableError("https://x", "no route")
        if self.fault == "busy":
            raise ServerBusyError(503, "busy", 0.0)
        if self.fault == "refused":
            raise ServerRefusedError(401, Refusal("certificate_revoked", "revoked"))

    def _after(self, status: int, stream: Stream) -> Answer:
        if self.fault == "lost answer":
            raise ServerUnreachableError("https://x", "cut")
        if self.fault == "nonsense":
            return Answer(200, b"<html>")
        if self.fault == "cut message":
            return Answer(200, b'{"next"')
        if self.fault == "too high":
            return Answer(200, encode_message(StreamAnswer(10**12)))
        return Answer(status, encode_message(StreamAnswer(stream.next)))

    def get(self, path: str) -> Answer:
        self._before()
        name = path.rsplit("/", 1)[1]
        if name not in self.streams:
            raise ServerRefusedError(404, Refusal("unknown_stream", "no"))
        # A number that was never written here means a spool put back: a test of its own, below.
        self.fault = "none" if self.fault == "too high" else self.fault
        return self._after(200, self.streams[name])

    def post(self, path: str, body: bytes, *, content_type: str, gzip: bool = False) -> Answer:
        self._before()
        parts = urlsplit(path)
        name, what = parts.path.split("/")[3:5]
        if what == "gaps":
            gap = decode_message(body, GapReport)
            first, lines = gap.first, [None] * (gap.last - gap.first + 1)
            reason: GapReason | None = gap.reason
        else:
            assert gzip
            first, reason = int(parse_qs(parts.query)["first"][0]), None
            lines = list(decode_lines(body))  # type: ignore[arg-type]
        stream = self.streams.setdefault(name, Stream(first, first))
        if first > stream.next:
            return self._after(409, stream)
        for number, line in enumerate(lines, first):
            if number < stream.next:
                continue
            if reason is not None:
                stream.gaps[number] = reason
            else:
                assert line is not None
                stream.lines[number] = line
                self.ever.setdefault(name, set()).add(number)
            stream.next = number + 1
        return self._after(200, stream)


class UplinkBesideModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.patches = [mock.patch("os.fsync"), mock.patch("os.fdatasync")]
        for patch in self.patches:
            patch.start()
        self.spool = Spool.open(self.folder / "spool", segment_bytes=4096)
        self.server = ModelServer()
        self.saved: dict[str, Stream] | None = None
        self.written: dict[str, dict[int, bytes]] = {}
        self.count = 0
        self.stop = threading.Event()
        self.uplink = self._uplink()

    def _uplink(self) -> Uplink:
        return Uplink(
            self.spool,
            self.server,  # type: ignore[arg-type]
            batch_bytes=1024,
            backoff=Backoff(first=0.0, longest=0.0),
        )

    def _end_uplink(self) -> None:
        self.stop.set()
        self.uplink.run(self.stop)
        self.stop.clear()

    @rule(sizes=st.lists(st.integers(0, 700), min_size=1, max_size=6))
    def write(self, sizes: list[int]) -> None:
        lines = []
        for size in sizes:
            self.count += 1
            lines.append(b"%d:" % self.count + b"x" * size)
        known = self.written.setdefault(self.spool.stream, {})
        known.update(enumerate(lines, self.spool.next))
        self.spool.append(lines, SourcePosition(1, 1, self.count, fingerprint(lines[-1])))

    @rule(faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=4))
    def send(self, faults: list[str]) -> None:
        for fault in faults:
            self.server.fault = fault
            if self.spool.next > self.spool.acknowledged:
                self.uplink._step(self.stop)
                state = self.uplink.state
                assert (state.problem is None) == (state.link is LinkState.CONNECTED)
        self.server.fault = "none"
        for name, stream in self.server.streams.items():
            for number, line in stream.lines.items():
                assert self.written[name][number] == line

    @rule()
    def save(self) -> None:
        self.saved = copy.deepcopy(self.server.streams)

    @rule()
    def put_the_journal_back(self) -> None:
        if self.saved is not None:
            self.server.streams = copy.deepcopy(self.saved)

    @rule()
    def restart_the_agent(self) -> None:
        self._end_uplink()
        self.spool.close()
        self.spool = Spool.open(self.folder / "spool", segment_bytes=4096)
        self.uplink = self._uplink()

    def teardown(self) -> None:
        if not hasattr(self, "spool"):
            return
        try:
            self.server.fault = "none"
            self.write([3])
            for _ in range(200):
                if self.spool.acknowledged == self.spool.next:
                    break
                self.uplink._step(self.stop)
            assert self.spool.acknowledged == self.spool.next
            assert self.uplink.state.link is LinkState.CONNECTED
            for name, stream in self.server.streams.items():
                for number, line in self.written.get(name, {}).items():
                    if number < stream.start or number >= stream.next:
                        # A journal put back to before it knew of these was not asked again.
                        assert number in self.server.ever.get(name, set())
                        continue
                    kept = stream.lines.get(number)
                    if kept is None:
                        assert stream.gaps[number] is GapReason.ACKNOWLEDGED
                        assert number in self.server.ever[name]
                    else:
                        assert kept == line
                        assert number not in stream.gaps
        finally:
            self._end_uplink()
            self.spool.close()
            for patch in self.patches:
                patch.stop()
            shutil.rmtree(self.folder)


TestUplinkBesideModel = pytest.mark.timeout(120)(UplinkBesideModel.TestCase)
TestUplinkBesideModel.settings = settings(
    max_examples=100,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.open(tmp_path / "spool")


def fill(spool: Spool, *lines: bytes) -> None:
    spool.append(lines, SourcePosition(1, 1, 1, fingerprint(b"x")))


def make(spool: Spool, server: ModelServer) -> Uplink:
    return Uplink(
        spool,
        server,  # type: ignore[arg-type]
        batch_bytes=4096,
        backoff=Backoff(first=0.0, longest=0.0),
    )


def ended(uplink: Uplink) -> None:
    stop = threading.Event()
    stop.set()
    uplink.run(stop)


def test_a_server_that_goes_back_for_ever_is_asked_with_pauses(spool: Spool) -> None:
    class Stubborn(ModelServer):
        def _after(self, status: int, stream: Stream) -> Answer:
            return Answer(status, encode_message(StreamAnswer(0)))

    fill(spool, b"a", b"b")
    spool.acknowledge(spool.next)
    fill(spool, b"c")
    server = Stubborn()
    uplink = make(spool, server)
    for _ in range(5):
        uplink._step(threading.Event())
    assert server.requests < 20
    assert uplink.state.failures == 5
    assert "was told" in str(uplink.state.problem)
    assert spool.acknowledged == 2
    ended(uplink)
    spool.close()


def test_a_spool_that_cannot_be_read_now_is_read_later(spool: Spool, tmp_path: Path) -> None:
    fill(spool, b"a")
    server = ModelServer()
    uplink = make(spool, server)
    stop = threading.Event()
    with mock.patch.object(spool, "read", side_effect=SpoolReadError(tmp_path, "Input/output")):
        uplink._step(stop)
    assert "Input/output" in str(uplink.state.problem)
    uplink._step(stop)
    assert server.streams[spool.stream].lines == {0: b"a"}
    ended(uplink)
    spool.close()


def test_it_runs_until_told_and_a_pause_can_be_cut_short_even_before_it_begins(
    spool: Spool,
) -> None:
    class Renewing(ModelServer):
        """The certificate is renewed while a request with the old one is under way."""

        def _before(self) -> None:
            try:
                super()._before()
            finally:
                self.fault = "none"
                uplink.retry_now()

    fill(spool, b"a")
    server = Renewing()
    server.fault = "busy"
    uplink = Uplink(
        spool,
        server,  # type: ignore[arg-type]
        batch_bytes=4096,
        backoff=Backoff(first=600.0, longest=600.0),
    )
    stop = threading.Event()
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    wait_for("the line", lambda: spool.acknowledged == 1, 30)
    stop.set()
    uplink.retry_now()
    thread.join(10)
    assert not thread.is_alive()
    assert (uplink.state.lines_sent, uplink.state.failures) == (1, 1)
    spool.close()


def test_a_spool_put_back_begins_a_new_stream(spool: Spool) -> None:
    fill(spool, b"a")
    server = ModelServer()
    old = spool.stream
    server.streams[old] = Stream(9, 0)
    uplink = make(spool, server)
    uplink._step(threading.Event())
    assert spool.stream != old
    ended(uplink)
    spool.close()


def test_a_refusal_of_the_comparison_is_no_new_stream(spool: Spool) -> None:
    fill(spool, b"a")
    server = ModelServer()
    server.fault = "refused"
    uplink = make(spool, server)
    uplink._step(threading.Event())
    assert uplink.state.link is LinkState.REFUSED
    server.fault = "none"
    uplink._step(threading.Event())
    assert uplink.state.link is LinkState.CONNECTED
    ended(uplink)
    spool.close()
