"""Asking the file system about the events file and the files beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from typing import TYPE_CHECKING

from sib_agent.spool.records import FINGERPRINT_REACH, SourcePosition, fingerprint
from sib_agent.spool.rotation import Candidate, Writers, taken_number

if TYPE_CHECKING:
    from pathlib import Path


def open_regular(path: Path) -> int:
    """Open a regular file for reading; a link, a pipe or a device is refused.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return descriptor


def read_before(descriptor: int, offset: int) -> bytes:
    """The bytes right before an offset, as many as a fingerprint covers."""
    reach = min(offset, FINGERPRINT_REACH)
    return os.pread(descriptor, reach, offset - reach)


def candidates_in(active: Path, position: SourcePosition | None) -> list[Candidate]:
    """The events file, the taken ones, and a sibling with the position's inode.

    Args:
        active: the path that Falco writes to.
        position: whose file is looked for; ``None`` to look for none.

    Raises:
        OSError: the directory cannot be read, or a file that matters cannot be opened.
    """
    found = []
    with os.scandir(active.parent) as entries:
        for entry in entries:
            number = taken_number(active.name, entry.name)
            own = entry.name == active.name or number is not None
            if not own and (position is None or entry.inode() != position.inode):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                if entry.name != active.name and not stat.S_ISREG(status.st_mode):
                    continue
                familiar = (
                    position is not None
                    and status.st_ino == position.inode
                    and _is_familiar(active.with_name(entry.name), position)
                )
            except FileNotFoundError:
                continue
            found.append(
                Candidate(
                    entry.name,
                    number,
                    entry.name == active.name,
                    status.st_dev,
                    status.st_ino,
                    status.st_size,
                    familiar,
                )
            )
    return found


def _is_familiar(path: Path, position: SourcePosition) -> bool:
    descriptor = open_regular(path)
    try:
        if os.fstat(descriptor).st_size < position.offset:
            return False
        return fingerprint(read_before(descriptor, position.offset)) == position.fingerprint
    finally:
        os.close(descriptor)


def has_writers(descriptor: int) -> Writers:
    """Whether anybody has a file open for writing.

    A read lease is granted only when nobody has; that takes the file's owner or CAP_LEASE.

    Args:
        descriptor: of the file, open for reading only.
    """
    try:
        # Who opens the file while we hold the lease gets us a signal, and SIGIO would end us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Writers.SOME if error.errno == errno.EAGAIN else Writers.UNKNOWN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return Writers.NONE
