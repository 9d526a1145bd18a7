"""Files that ``setup`` writes from settings, and that people may edit all the same.

Such a file begins with a header whose last line is a checksum of what follows. So an edit is seen
without anything being remembered elsewhere: a file that is as it was written is replaced, one that
somebody edited is kept, and what would have been written is put beside it as ``NAME.new``.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import FileAccessError
from sib_protocol.files import sync_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_BYTES: Final = 16 * 1024 * 1024
_MARK: Final = re.compile(rb"^\S{1,3} sib-generated: ([0-9a-f]{64})\n", re.MULTILINE)
_MARK_WITHIN: Final = 4096


class Action(Enum):
    """What happens, or happened, to a generated file."""

    UNCHANGED = "unchanged"
    """It is as it would be written."""

    CREATED = "created"
    """It was not there."""

    UPDATED = "updated"
    """It was there as an earlier setup wrote it."""

    KEPT = "kept"
    """Somebody edited it: it stays, and the new one is beside it as ``NAME.new``."""

    REPLACED = "replaced"
    """Somebody edited it, and force was asked for: the edited one is beside it as ``NAME.old``."""

    REMOVED = "removed"
    """It is not wanted any more; what somebody edited of it is beside it as ``NAME.old``."""


class FileChange(msgspec.Struct, frozen=True):
    """What happens to one file.

    Attributes:
        path: the file's.
        action: what happens.
    """

    path: str
    action: Action


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    """A file as it should be.

    Attributes:
        path: where.
        content: with its header, see :func:`with_header`.
        mode: permission bits.
        owner: user id and group id; ``None`` leaves them as the process makes them.
    """

    path: Path
    content: bytes
    mode: int = 0o640
    owner: tuple[int, int] | None = None


def with_header(body: str, *, comment: str, by: str, source: str) -> bytes:
    """A file's content below a header that names its origin and holds its checksum.

    Args:
        body: in the file's own language.
        comment: what begins a comment in it: ``#``, ``//`` or ``;``.
        by: the command that writes it, like ``sib-agent setup``.
        source: the settings file to edit instead.
    """
    text = body.encode()
    head = (
        f"{comment} Written by '{by}' from {source}: edit that, and run '{by}' again.\n"
        f"{comment} An edit here is kept: the next setup writes beside it, as NAME.new.\n"
        f"{comment} sib-generated: {hashlib.sha256(text).hexdigest()}\n"
    )
    return head.encode() + text


def is_untouched(content: bytes) -> bool:
    """Whether a file is as some setup wrote it, to the byte below its header."""
    mark = _MARK.search(content[:_MARK_WITHIN])
    return mark is not None and hashlib.sha256(
        content[mark.end() :]
    ).hexdigest().encode() == mark.group(1)


def decide(found: bytes | None, wanted: bytes, *, force: bool = False) -> Action:
    """What to do about a file. Pure.

    Args:
        found: what is there; ``None`` for nothing.
        wanted: what should be.
        force: give up edits.
    """
    if found is None:
        return Action.CREATED
    if found == wanted:
        return Action.UNCHANGED
    if is_untouched(found):
        return Action.UPDATED
    return Action.REPLACED if force else Action.KEPT


def plan_files(files: Iterable[GeneratedFile], *, force: bool = False) -> list[FileChange]:
    """What :func:`write_files` would do.

    Raises:
        FileAccessError: a file cannot be read.
    """
    return [
        FileChange(str(file.path), decide(_read(file.path), file.content, force=force))
        for file in files
    ]


def write_files(files: Iterable[GeneratedFile], *, force: bool = False) -> list[FileChange]:
    """Bring files to their content; each is there whole or not at all, and edits are never lost.

    Args:
        files: their directories are there.
        force: replace edited ones, too; the edited one stays beside as ``NAME.old``.

    Raises:
        FileAccessError: a file cannot be read or written.
    """
    return [FileChange(str(file.path), _write(file, force=force)) for file in files]


def _write(file: GeneratedFile, *, force: bool) -> Action:
    found = _read(file.path)
    action = decide(found, file.content, force=force)
    beside = file.path.with_name(f"{file.path.name}.new")
    try:
        if action is Action.KEPT:
            if _read(beside) != file.content:
                write_atomic(beside, file.content, file.mode, owner=file.owner)
            return action
        if action is Action.REPLACED and found is not None:
            old = file.path.with_name(f"{file.path.name}.old")
            write_atomic(old, found, file.mode, owner=file.owner)
        if action is not Action.UNCHANGED:
            write_atomic(file.path, file.content, file.mode, owner=file.owner)
        if beside.is_file():
            # What it proposed is in force now.
            beside.unlink()
            sync_directory(beside.parent)
    except OSError as error:
        raise FileAccessError(file.path, error.strerror or str(error)) from error
    return action


def remove_file(path: Path, *, force: bool = False, dry_run: bool = False) -> FileChange | None:
    """Take away a generated file that is not wanted any more; one that was edited is kept.

    Args:
        path: the file's.
        force: take away an edited one, too; it stays beside as ``NAME.old``.
        dry_run: only say what would be done.

    Returns:
        ``None`` where it is not there.

    Raises:
        FileAccessError: it cannot be read or removed.
    """
    found = _read(path)
    if found is None:
        return None
    edited = not is_untouched(found)
    if edited and not force:
        return FileChange(str(path), Action.KEPT)
    if not dry_run:
        try:
            if edited:
                path.replace(path.with_name(f"{path.name}.old"))
            else:
                path.unlink()
            sync_directory(path.parent)
        except OSError as error:
            raise FileAccessError(path, error.strerror or str(error)) from error
    return FileChange(str(path), Action.REMOVED)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    if len(content) > _MAX_BYTES:
        raise FileAccessError(path, f"it is over {_MAX_BYTES} bytes", "move it away")
    return content


def group_owner(group: str) -> tuple[int, int] | None:
    """Root and a group, for files that a service reads and may not write.

    Returns:
        ``None`` where this process is not root, or the group is not there.
    """
    import grp  # noqa: PLC0415  (the daemons have no use for it)

    if os.geteuid() != 0:
        return None
    try:
        return 0, grp.getgrnam(group).gr_gid
    except KeyError:
        return None
