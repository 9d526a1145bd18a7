"""The root of SIB's exceptions and the exit codes of its commands.

Every error that can reach a person is a :class:`SibError`: it carries the offending data as
attributes, says in one sentence what is wrong, and, where there is one, what to do about it. The
command line prints the two sentences and leaves with :attr:`SibError.exit_code`; a traceback on
the terminal is always a bug.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON that is wanted: not only its own error."""


class ExitCode(IntEnum):
    """How a SIB command ends. Part of the interface: numbers are never given a new meaning."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    SETTINGS = 3
    FILE_ACCESS = 4
    UNREACHABLE = 5
    REFUSED = 6
    UNTRUSTED = 7
    NOT_FOUND = 8
    CONFLICT = 9
    DAMAGED = 10
    INCOMPLETE = 11


class SibError(Exception):
    """A failure that a person can act on.

    Attributes:
        problem: one sentence, with the offending value in it.
        remedy: what to do about it, or ``None`` where nothing general can be said.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class SettingsError(SibError):
    """A settings file that cannot be used; names the file and the key."""

    exit_code = ExitCode.SETTINGS

    def __init__(self, path: Path, key: str | None, reason: str, remedy: str | None = None) -> None:
        where = f"{path}: {key}" if key else str(path)
        super().__init__(f"{where}: {reason}", remedy)
        self.path = path
        self.key = key
        self.reason = reason


class FileAccessError(SibError):
    """A file or directory that cannot be read or written."""

    exit_code = ExitCode.FILE_ACCESS

    def __init__(self, path: Path, reason: str, remedy: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", remedy)
        self.path = path
        self.reason = reason


class MalformedMessageError(SibError):
    """Bytes from the other side that are not what the protocol says."""

    exit_code = ExitCode.REFUSED


class TooLargeError(MalformedMessageError):
    """A message over its size limit.

    Attributes:
        limit: the limit in bytes.
    """

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is larger than the {limit} bytes allowed")
        self.what = what
        self.limit = limit
