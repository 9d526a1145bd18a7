"""What the doctor finds out of a server, beside walking the way of an event."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_server.events.reader import JournalReader
from sib_server.events.stored import Seq

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sib_server.events.damage import JournalDamage

_SAMPLE: Final = 1000
_MOST_FILES: Final = 10_000


@dataclass(frozen=True, slots=True)
class FileFact:
    """Who may do what with a file.

    Attributes:
        path: as text.
        mode: permissions, nine bits.
        uid: owner's.
        directory: whether it is one.
    """

    path: str
    mode: int
    uid: int
    directory: bool


@dataclass(frozen=True, slots=True)
class JournalSample:
    """A look at the journal's oldest and newest events.

    Attributes:
        looked_at: how many rows were read and compared with their checksums.
        damaged: how many of them are not what was written.
    """

    looked_at: int
    damaged: int


@dataclass(frozen=True, slots=True)
class HostFact:
    """A host, as far as the doctor cares.

    Attributes:
        name: its name.
        state: healthy, late, silent or never.
        version: of its agent; empty where it never said.
        lost: lines that it lost since its stream began.
        bundle_failure: why its last bundle is not in force; empty where it is.
    """

    name: str
    state: str
    version: str
    lost: int = 0
    bundle_failure: str = ""


def find_files(roots: Iterable[Path]) -> list[FileFact]:
    """Files and directories below some, themselves included; links are not followed."""
    found: list[FileFact] = []
    for root in roots:
        if not _add(found, root):
            continue
        for folder, folders, files, descriptor in os.fwalk(root, follow_symlinks=False):
            for name in (*folders, *files):
                if len(found) >= _MOST_FILES:
                    return found
                try:
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except OSError:
                    continue
                _append(found, os.path.join(folder, name), status)  # noqa: PTH118  (text)
    return found


def _add(found: list[FileFact], path: Path) -> bool:
    try:
        _append(found, str(path), path.lstat())
    except OSError:
        return False
    return True


def _append(found: list[FileFact], path: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        found.append(
            FileFact(
                path,
                stat.S_IMODE(status.st_mode) & 0o777,
                status.st_uid,
                stat.S_ISDIR(status.st_mode),
            )
        )


def sample_journal(path: Path) -> JournalSample:
    """Read the oldest and the newest events and compare their checksums. Raises JournalError."""
    damaged: list[JournalDamage] = []
    with JournalReader(path, on_damage=damaged.append) as reader:
        first, last = reader.first_seq, reader.last_seq
        looked_at = len(reader.read(Seq(max(0, first - 1)), max_events=_SAMPLE))
        newest = max(first + looked_at - 1, last - _SAMPLE)
        if newest < last:
            looked_at += len(reader.read(Seq(newest), max_events=_SAMPLE))
    places = {(one.first, one.last) for one in damaged}
    return JournalSample(looked_at + len(places), len(places))
