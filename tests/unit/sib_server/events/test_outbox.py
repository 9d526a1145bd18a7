from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sib_protocol.errors import FileAccessError
from sib_protocol.ids import HostName
from sib_server.events import outbox as outboxes
from sib_server.events.journal import Journal
from sib_server.events.outbox import Outbox, OutboxFullError, OutboxIntake
from sib_server.events.reader import JournalReader
from sib_server.events.stored import Seq
from sib_server.events.writer import JournalWriter
from tests.support.journal import falco_line

LINES = [falco_line(number) for number in range(3)]


def stored_lines(path: Path) -> list[bytes]:
    with JournalReader(path) as reader:
        return [event.line for event in reader.read(Seq(0))]


def test_a_parcel_is_stored_once_however_often_it_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    outbox = Outbox(tmp_path / "outbox")
    outbox.put(LINES[:2])
    outbox.put([])
    outbox.put(LINES[2:])
    (tmp_path / "outbox" / "not-a-uuid.jsonl").write_bytes(b"x\n")
    (tmp_path / "outbox" / "11111111-2222-4333-8444-555555555555.jsonl").write_bytes(b"")
    first, second = outbox.parcels()

    async def take() -> None:
        journal = Journal.open(path)
        writer = JournalWriter(journal)
        intake = OutboxIntake(outbox, writer, journal.journal_id, HostName("siem"))
        for parcel in (first, first, second, first):
            await intake.take(parcel)
        await asyncio.to_thread(writer.close)

    asyncio.run(take())
    assert stored_lines(path) == LINES
    assert outbox.parcels() == []
    # What is none of ours is neither taken nor deleted.
    assert len(list(outbox.directory.iterdir())) == 2


def test_a_running_server_takes_what_lies_there_and_survives_a_bad_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_LOOK_SECONDS", 0.01)
    outbox = Outbox(tmp_path / "outbox")
    outbox.put(LINES)

    async def run() -> None:
        journal = Journal.open(tmp_path / "journal.db")
        writer = JournalWriter(journal)
        closed = JournalWriter(Journal.open(tmp_path / "other.db"))
        await asyncio.to_thread(closed.close)
        waiting = OutboxIntake(outbox, closed, journal.journal_id, HostName("siem"))
        task = asyncio.create_task(waiting.run())
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
        assert len(outbox.parcels()) == 1
        task = asyncio.create_task(
            OutboxIntake(outbox, writer, journal.journal_id, HostName("siem")).run()
        )
        async with asyncio.timeout(20):
            while outbox.parcels():
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.to_thread(writer.close)

    asyncio.run(run())
    assert stored_lines(tmp_path / "journal.db") == LINES


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "MOST_FILES", 2)
    monkeypatch.setattr(outboxes, "MOST_BYTES", 100)
    outbox = Outbox(tmp_path / "outbox")
    outbox.put([b"x" * 101])
    outbox.put([b"y"])
    with pytest.raises(OutboxFullError) as refused:
        outbox.put([b"z"])
    assert refused.value.directory == outbox.directory
    assert [parcel.lines for parcel in outbox.parcels()] == [(b"y",)]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError):
        Outbox(tmp_path / "file").put([b"x"])
