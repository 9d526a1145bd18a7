"""Events that other SIB processes of this machine hand to the running server.

The journal has one writer, the server. A command that has something to report puts a file of event
lines into the outbox; the server takes it up within seconds, or at its next start. The file's name
is the UUID of a stream of its own, so a file that is read again after a crash is skipped by its
numbers like a re-sent batch: every line is stored exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import FileAccessError, MalformedMessageError, SibError
from sib_protocol.files import sync_directory, write_atomic
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId, new_stream_id, parse_stream_id
from sib_server.events.incoming import Accepted, IncomingBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sib_server.events.writer import JournalWriter

_log: Final = logging.getLogger(__name__)
_SUFFIX: Final = ".jsonl"
MOST_FILES: Final = 1_000
MOST_BYTES: Final = 4 * 1024 * 1024
"""Of one file; the server's memory is not a command's to fill."""

_LOOK_SECONDS: Final = 2.0


class OutboxFullError(SibError):
    """Nobody has taken anything out of the outbox for long.

    Attributes:
        directory: the outbox.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{MOST_FILES} files wait in {directory} to be taken into the journal",
            "start the server: systemctl start sib-server",
        )
        self.directory = directory


@dataclass(frozen=True, slots=True)
class Parcel:
    """One file of the outbox.

    Attributes:
        stream: its stream.
        lines: event lines without newlines, at least one.
        path: where it lies.
    """

    stream: StreamId
    lines: tuple[bytes, ...]
    path: Path


class Outbox:
    """The directory; any number of processes may put files into it, one takes them out.

    Args:
        directory: made when the first file is put.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, lines: Sequence[bytes]) -> None:
        """Hand event lines over; they are durable when this returns.

        Args:
            lines: as :func:`sib_protocol.events.sib_event` makes them.

        Raises:
            OutboxFullError: too much waits already.
            FileAccessError: the directory cannot be written.
        """
        if not lines:
            return
        try:
            self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            if sum(1 for _ in self.directory.glob(f"*{_SUFFIX}")) >= MOST_FILES:
                raise OutboxFullError(self.directory)
            path = self.directory / f"{new_stream_id()}{_SUFFIX}"
            write_atomic(path, b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise FileAccessError(self.directory, error.strerror or str(error)) from error

    def parcels(self) -> list[Parcel]:
        """What waits, the oldest first. What is none of ours or too large is left and logged."""
        found: list[tuple[int, Path]] = []
        with suppress(FileNotFoundError):
            for path in self.directory.glob(f"*{_SUFFIX}"):
                with suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime_ns, path))
        return [parcel for _, path in sorted(found) if (parcel := _read(path)) is not None]

    def remove(self, parcel: Parcel) -> None:
        """Forget a parcel that is in the journal."""
        parcel.path.unlink(missing_ok=True)
        sync_directory(self.directory)


def _read(path: Path) -> Parcel | None:
    try:
        stream = parse_stream_id(path.stem)
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except (OSError, MalformedMessageError) as error:
        _log.warning("%s is left in the outbox: %s", path.name, error)
        return None
    lines = tuple(content.splitlines())
    if len(content) > MOST_BYTES or not lines:
        _log.warning("%s is left in the outbox: empty or too large", path.name)
        return None
    return Parcel(stream, lines, path)


class OutboxIntake:
    """Takes what lies in the outbox into the journal, for as long as the server runs.

    Args:
        outbox: where from.
        writer: where to.
        host_id: whom the events are of: the journal's own id.
        host_name: the server's name.
    """

    def __init__(
        self, outbox: Outbox, writer: JournalWriter, host_id: HostId, host_name: HostName
    ) -> None:
        self._outbox = outbox
        self._writer = writer
        self._host_id = host_id
        self._host_name = host_name

    async def run(self) -> None:
        """Look every two seconds; what cannot be taken now stays and is tried again."""
        while True:
            try:
                for parcel in await asyncio.to_thread(self._outbox.parcels):
                    await self.take(parcel)
            except (SibError, OSError) as error:
                _log.warning("the outbox waits: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def take(self, parcel: Parcel) -> None:
        """Make one parcel's lines durable in the journal, then remove it.

        Raises:
            JournalError: not now; nothing was removed.
        """
        batch = IncomingBatch(
            parcel.stream, self._host_id, self._host_name, LineNumber(0), parcel.lines
        )
        outcome = await self._writer.submit(batch)
        if not isinstance(outcome, Accepted):
            _log.error("the journal does not take %s: %s", parcel.path.name, outcome)
        await asyncio.to_thread(self._outbox.remove, parcel)
