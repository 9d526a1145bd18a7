"""Files that are there whole or not at all, through a crash at any instant; and those of others."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """The beginning of a regular file, at most so many bytes of it. A pipe is not waited for.

    Raises:
        OSError: it cannot be read, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most)


def sync_directory(path: Path) -> None:
    """Make renames, creations and removals in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(
    path: Path, content: bytes, mode: int, *, owner: tuple[int, int] | None = None
) -> None:
    """Create a file that must not exist yet, and make its content durable (not its name).

    Args:
        path: its place.
        content: its bytes.
        mode: permission bits.
        owner: user id and group id, for root; ``None`` leaves them as they come.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        # The mode given to open() is cut by the umask; a secret may be narrower, never wider.
        if owner is not None:
            found = os.fstat(descriptor)
            # A sandboxed service whose files are right as they come need not be let call this.
            if (found.st_uid, found.st_gid) != owner:
                os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(
    path: Path, content: bytes, mode: int = 0o640, *, owner: tuple[int, int] | None = None
) -> None:
    """Replace a file by rename: readers and crashes see the old content or the new.

    The arguments are those of :func:`write_synced`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        write_synced(temporary, content, mode, owner=owner)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def swap_generation(
    parent: Path, name: str, files: Mapping[str, tuple[bytes, int]], *, link: str = "current"
) -> Path:
    """Put a set of files in place together, by renaming one symlink.

    The files are written to ``parent/name`` and ``parent/link`` is pointed there in one rename, so
    that a key is never seen beside another generation's certificate.

    Args:
        parent: exists already.
        name: the generation's directory name; must not exist yet.
        files: file name -> (content, mode).
        link: the symlink's name.

    Returns:
        The new generation's directory.
    """
    generation = parent / name
    generation.mkdir(mode=0o700)
    for file_name, (content, mode) in files.items():
        write_synced(generation / file_name, content, mode)
    sync_directory(generation)
    sync_directory(parent)
    temporary = parent / f".{link}.{secrets.token_hex(6)}"
    temporary.symlink_to(name)
    temporary.replace(parent / link)
    sync_directory(parent)
    return generation
