"""What can go wrong with a spool in a way that a person can act on."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sib_protocol.errors import ExitCode, FileAccessError, SibError

if TYPE_CHECKING:
    from pathlib import Path


class SpoolLockedError(SibError):
    """Another process owns the spool.

    Attributes:
        directory: the spool's.
        pid: of the owner; ``None`` where it has not said.
    """

    exit_code = ExitCode.CONFLICT

    def __init__(self, directory: Path, pid: int | None) -> None:
        owner = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"{directory}: the spool is in use by {owner}",
            "stop that sib-agent first, or give this one a spool directory of its own",
        )
        self.directory = directory
        self.pid = pid


class SpoolWriteError(FileAccessError):
    """The spool could not be written; nothing of the refused commit is left behind."""


class SpoolFullDiskError(SpoolWriteError):
    """There is no room for a commit (ENOSPC, EDQUOT); it can be tried again as it is."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason, "make room on this file system, or lower the spool's quota")


class SpoolReadError(FileAccessError):
    """A segment is there and cannot be read."""


def write_error(directory: Path, error: OSError) -> SpoolWriteError:
    """What a failure to write means: a full disk, or another."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolFullDiskError(directory, reason)
    return SpoolWriteError(directory, reason)
