"""What can go wrong with the journal, and what a person can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from pathlib import Path

    from sib_protocol.ids import HostId, StreamId


class JournalError(SibError):
    """The journal cannot do what was asked."""


class JournalMissingError(JournalError):
    """There is no journal at this path.

    Attributes:
        path: where it was looked for.
    """

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"there is no journal at {path}",
            "start the server once, or name its settings file with --config",
        )
        self.path = path


class JournalUnavailableError(JournalError):
    """The journal cannot be written or read now; it is as it was before, so trying again is safe.

    Attributes:
        path: the journal's file.
        reason: what the disk or SQLite said.
    """

    exit_code = ExitCode.FILE_ACCESS

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"the journal {path} cannot be used now: {reason}",
            "see to it that the disk has room and that the file can be read and written",
        )
        self.path = path
        self.reason = reason


class JournalBusyError(JournalError):
    """More batches wait for the journal than it may hold in memory; the sender tries again later.

    Attributes:
        waiting_events: how many events wait.
        retry_after_seconds: when it is worth trying again.
    """

    def __init__(self, waiting_events: int, retry_after_seconds: int = 1) -> None:
        super().__init__(
            f"{waiting_events} events already wait for the journal",
            f"send them again in {retry_after_seconds} s",
        )
        self.waiting_events = waiting_events
        self.retry_after_seconds = retry_after_seconds


class JournalInUseError(JournalError):
    """Another process writes this journal.

    Attributes:
        path: the journal's file.
    """

    exit_code = ExitCode.CONFLICT

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another process writes the journal {path}",
            "stop the other sib-server, or give each its own journal path",
        )
        self.path = path


class JournalDamagedError(JournalError):
    """The journal's file is damaged where SQLite cannot do without.

    Attributes:
        path: the journal's file.
        reason: what was found.
    """

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"the journal {path} is damaged: {reason}",
            "stop the server and run: sib-server journal salvage <damaged file> <new file>",
        )
        self.path = path
        self.reason = reason


class JournalTooNewError(JournalError):
    """The journal was written by a newer SIB than this one.

    Attributes:
        path: the journal's file.
        version: of its schema.
    """

    exit_code = ExitCode.CONFLICT

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"the journal {path} has schema {version}, which this SIB does not know",
            "upgrade sib-server, or put back the backup made before the upgrade",
        )
        self.path = path
        self.version = version


class StreamOwnedError(JournalError):
    """A host sent lines of a stream that belongs to another host.

    Attributes:
        stream: the stream it named.
        host_id: the host that sent them.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, stream: StreamId, host_id: HostId) -> None:
        super().__init__(f"host {host_id} sent lines of stream {stream}, which is another host's")
        self.stream = stream
        self.host_id = host_id


class TooManyStreamsError(JournalError):
    """A host began more streams than one ever needs: all of them are kept in memory.

    Attributes:
        host_id: the host.
        streams: how many it has.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, host_id: HostId, streams: int) -> None:
        super().__init__(
            f"host {host_id} has begun {streams} streams and may begin no further one",
            "find out why its spool is made anew so often, or what else sends in its name; then"
            " 'sib-server host remove' it and enroll it again",
        )
        self.host_id = host_id
        self.streams = streams


class NumberRangeError(JournalError):
    """A batch or gap whose numbers cannot be.

    Attributes:
        stream: the stream it named.
        first: its first number.
        last: its last number.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, stream: StreamId, first: int, last: int) -> None:
        super().__init__(f"lines {first} to {last} of stream {stream} are no range of lines")
        self.stream = stream
        self.first = first
        self.last = last
