"""The journal beside a plain model of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sib_protocol.events import summarize
from sib_protocol.ids import EventId, HostId, HostName, LineNumber, StreamId
from sib_protocol.messages import GapReason
from sib_server.events.incoming import (
    Accepted,
    Incoming,
    IncomingBatch,
    IncomingGap,
    Refused,
    ServerRecord,
    Wanted,
)
from sib_server.events.integrity import verify
from sib_server.events.journal import GAP_RULE, Journal
from sib_server.events.reader import JournalReader
from sib_server.events.retention import RetentionPolicy, prune_step
from sib_server.events.salvage import salvage
from sib_server.events.stored import Seq, StoredEvent

STREAMS = [StreamId(f"00000000-0000-4000-8000-00000000000{n}") for n in range(4)]
HOSTS = [HostId(f"00000000-0000-4000-9000-00000000000{n}") for n in range(3)]

lines = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")),
        st.integers(0, 9).map(lambda n: b'{"rule":"r%d","priority":"Error","tags":["T1003"]}' % n),
        st.integers(3000, 13_000).map(lambda size: b"long " + b"x" * size),
    ),
    min_size=0,
    max_size=6,
)
offsets = st.integers(-4, 3)


class JournalMachine(RuleBasedStateMachine):
    """`self.events` is the truth: (stream, number) -> (host id, host name, line), in order."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sib-journal-"))
        self.path = self.folder / "journal.db"
        self.now = 1_700_000_000_000_000_000
        self.journal = Journal.open(self.path, clock_ns=lambda: self.now)
        self.events: list[tuple[EventId, HostId, HostName, bytes | None]] = []
        self.pruned = 0
        self.next: dict[StreamId, int] = {}
        self.owner: dict[StreamId, HostId] = {}
        self.cursor = 0
        self.seqs: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)

    # What the model expects of one entry.

    def expect_batch(self, batch: IncomingBatch) -> Any:
        if self.owner.get(batch.stream, batch.host_id) != batch.host_id:
            return Refused
        known = self.next.get(batch.stream, batch.first)
        if batch.first > known:
            return Wanted(LineNumber(known))
        end = batch.first + len(batch.lines)
        for number in range(known, end):
            line = batch.lines[number - batch.first]
            event_id = EventId(batch.stream, LineNumber(number))
            self.events.append((event_id, batch.host_id, batch.host_name, line))
        if end > known:
            self.next[batch.stream], self.owner[batch.stream] = end, batch.host_id
        return max(known, end)

    def expect_gap(self, gap: IncomingGap) -> Any:
        if self.owner.get(gap.stream, gap.host_id) != gap.host_id:
            return Refused
        known = self.next.get(gap.stream, gap.first)
        if gap.first > known:
            return Wanted(LineNumber(known))
        if gap.last >= known:
            self.next[gap.stream], self.owner[gap.stream] = gap.last + 1, gap.host_id
            self.expect_own(gap.host_id, gap.host_name, None)
        return max(known, gap.last + 1)

    def expect_own(self, host_id: HostId, host_name: HostName, line: bytes | None) -> None:
        own = self.journal.own_stream
        number = self.next.get(own, 0)
        self.events.append((EventId(own, LineNumber(number)), host_id, host_name, line))
        self.next[own] = number + 1

    @rule(data=st.data(), seconds=st.integers(-90_000, 90_000))
    def append(self, data: st.DataObject, seconds: int) -> None:
        self.now = max(0, self.now + seconds * 10**9)
        entries: list[Incoming] = []
        expected = []
        for _ in range(data.draw(st.integers(1, 4))):
            stream = data.draw(st.sampled_from(STREAMS))
            host = data.draw(st.sampled_from(HOSTS))
            # Most come from the owner, or nothing but refusals would be tested.
            host = data.draw(st.sampled_from([host, self.owner.get(stream, host)]))
            name = HostName(data.draw(st.sampled_from(["web-1", "db_2", "x" * 253])))
            first = LineNumber(max(0, self.next.get(stream, 5) + data.draw(offsets)))
            which = data.draw(st.sampled_from(["batch", "batch", "batch", "gap", "record"]))
            entry: Incoming
            if which == "batch":
                entry = IncomingBatch(stream, host, name, first, data.draw(lines))
                expected.append(self.expect_batch(entry))
            elif which == "gap":
                last = LineNumber(first + data.draw(st.integers(0, 4)))
                entry = IncomingGap(stream, host, name, first, last, GapReason.QUOTA)
                expected.append(self.expect_gap(entry))
            else:
                entry = ServerRecord(b'{"rule":"SIB x"}', host, name)
                self.expect_own(host, name, entry.line)
                expected.append(None)
            entries.append(entry)
        for outcome, wanted in zip(self.journal.append(entries), expected, strict=True):
            if wanted is Refused:
                assert isinstance(outcome, Refused)
            elif isinstance(wanted, Wanted):
                assert outcome == wanted
            else:
                assert isinstance(outcome, Accepted)
                assert wanted is None or outcome.next == wanted

    @rule(step=st.integers(0, 20))
    def advance(self, step: int) -> None:
        self.cursor = min(self.cursor + step, self.journal.last_seq)
        self.journal.advance("loki", Seq(self.cursor))

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal.open(self.path, clock_ns=lambda: self.now)

    @rule(tail=st.binary(max_size=6000))
    def crash(self, tail: bytes) -> None:
        """Go on with copies of the files as they are, and a torn write at the log's end."""
        copy = Path(tempfile.mkdtemp(prefix="sib-journal-"))
        for suffix in ("", "-wal"):
            shutil.copyfile(
                self.path.with_name("journal.db" + suffix), copy / ("journal.db" + suffix)
            )
        with (copy / "journal.db-wal").open("ab") as log:
            log.write(tail)
        self.journal.close()
        shutil.rmtree(self.folder)
        self.folder, self.path = copy, copy / "journal.db"
        self.journal = Journal.open(self.path, clock_ns=lambda: self.now)

    @rule()
    def salvage_whole(self) -> None:
        """A salvage of an undamaged journal loses and makes up nothing."""
        self.journal.close()
        fresh = self.folder / "fresh.db"
        report = salvage(self.path, fresh)
        assert report.events == len(self.events) - self.pruned
        assert report.identity_kept
        shutil.move(fresh, self.path)
        self.journal = Journal.open(self.path, clock_ns=lambda: self.now)

    @rule(age=st.integers(0, 200_000))
    def prune(self, age: int) -> None:
        policy = RetentionPolicy(age * 10**9, None)
        step = prune_step(self.journal, policy, sinks=["loki"], now_ns=self.now)
        self.pruned += step.pruned
        assert self.pruned <= max(self.cursor, 0) or step.pruned == 0

    @precondition(lambda self: hasattr(self, "journal"))
    @invariant()
    def same(self) -> None:
        with JournalReader(self.path) as reader:
            stored: list[StoredEvent] = []
            while part := reader.read(stored[-1].seq if stored else Seq(0), max_events=7):
                stored.extend(part)
            assert reader.cursor("loki") == self.cursor
            assert reader.last_seq == len(self.events)
            assert reader.lag("loki").events == len(self.events) - self.cursor
        assert [event.seq for event in stored] == list(range(self.pruned + 1, len(self.events) + 1))
        for event, (event_id, host_id, host_name, line) in zip(
            stored, self.events[self.pruned :], strict=True
        ):
            assert (event.event_id, event.host_id) == (event_id, host_id)
            assert event.host_name == host_name
            assert event.summary == summarize(event.line)
            if line is None:
                assert event.summary.rule == GAP_RULE
                assert msgspec.json.decode(event.line)["output_fields"]["sib.lines"] > 0
            else:
                assert event.line == line
        for stream in STREAMS:
            assert self.journal.next_number(stream) == self.next.get(stream)
        assert verify(self.path).whole


JournalMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestJournal = JournalMachine.TestCase
