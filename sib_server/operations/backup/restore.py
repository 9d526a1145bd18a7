"""Putting a backup in place: all of it is read and verified before anything is touched."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from sib_protocol.files import sync_directory, write_atomic, write_synced
from sib_server.events.journal import take_lock
from sib_server.fleet.adoption import FILE as ADOPTION_FILE
from sib_server.fleet.adoption import AdoptionWindow
from sib_server.operations.accounts import acting_as, find_account, server_account
from sib_server.operations.backup.errors import ArchiveRefusedError, StateThereError
from sib_server.operations.backup.manifest import Entry, Manifest, Section
from sib_server.operations.backup.places import (
    DATABASES,
    SETTINGS,
    Places,
    aside,
    find_places,
)
from sib_server.pki.authority import Authority
from sib_server.settings_files import load_server_settings
from sib_server.state.database import StateDatabase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.operations.accounts import Account
    from sib_server.operations.backup.archive import ArchiveReader
    from sib_server.settings import ServerSettings


@dataclass(slots=True)
class Staged:
    """A backup that was read whole and found good, beside where it goes.

    Attributes:
        manifest: what is in it.
        places: where the parts go.
        account: whose the server's own files become.
        parts: part -> its staged directory, or file for a database.
        config: place below the settings file's directory -> (content, entry).
    """

    manifest: Manifest
    places: Places
    account: Account
    parts: dict[Section, Path] = field(default_factory=dict)
    config: dict[str, tuple[bytes, Entry]] = field(default_factory=dict)

    def targets(self) -> dict[Section, Path]:
        """Where each part goes."""
        return {section: self.places.of[section] for section in self.parts}

    def occupied(self) -> list[Path]:
        """What is there already, and would be set aside."""
        with acting_as(self.account):
            found = [path for path in self.targets().values() if _is_occupied(path)]
        folder = self.places.settings.parent
        kept = [folder / name for name in self.config]
        return found + [
            path
            for path, (content, _) in zip(kept, self.config.values(), strict=True)
            if path.exists() and path.read_bytes() != content
        ]


def _is_occupied(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def stage(
    reader: ArchiveReader,
    stack: ExitStack,
    settings_file: Path,
    own_settings: ServerSettings | None,
) -> Staged:
    """Read a backup into directories beside where its parts go.

    Args:
        reader: at its beginning.
        stack: takes the staged copies away, where they were not put in place.
        settings_file: where the settings file is or goes.
        own_settings: this machine's, where they are to stay; ``None``: the backup's are taken.

    Raises:
        ArchiveRefusedError: it is not what it should be.
        SibError: a part of it cannot be used here.
    """
    manifest = reader.manifest
    config: dict[str, tuple[bytes, Entry]] = {}
    waiting = len(manifest.of(Section.CONFIG))
    for _ in range(waiting):
        parts: list[bytes] = []
        entry = reader.next_entry(parts.append)
        assert entry is not None  # noqa: S101  (as many as the manifest has)
        name = settings_file.name if entry.below == SETTINGS else entry.below
        config[name] = (b"".join(parts), entry)
    if own_settings is None:
        settings = _settings_of(config, settings_file.name)
    else:
        settings, config = own_settings, {}
    places = find_places(settings, settings_file)
    staged = Staged(manifest, places, server_account(places.home), config=config)
    with acting_as(staged.account):
        for section in Section:
            if section is not Section.CONFIG and manifest.of(section):
                _stage_section(reader, stack, staged, section)
    if reader.next_entry(lambda _chunk: None) is not None:
        raise ArchiveRefusedError("it has more than its manifest says")
    return staged


def _settings_of(config: Mapping[str, tuple[bytes, Entry]], name: str) -> ServerSettings:
    """What the backup's settings say, with whatever lies beside the main file."""
    with tempfile.TemporaryDirectory(prefix="sib-restore-") as directory:
        for below, (content, _) in config.items():
            path = Path(directory) / below
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return load_server_settings(Path(directory) / name, needed=False)


def _stage_section(
    reader: ArchiveReader, stack: ExitStack, staged: Staged, section: Section
) -> None:
    target = staged.places.of.get(section)
    if target is None:
        raise ArchiveRefusedError(f"it has a {section.value}, for which the settings have no place")
    # Beside its place, so that a rename puts it there.
    target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix=f".{target.name}.restore-", dir=target.parent))
    stack.callback(_remove, root, staged.account)
    database = section in DATABASES
    folder = 0o700 if section is Section.PKI else 0o750
    made = root / (target.name if database else "tree")
    if not database:
        made.mkdir(mode=folder)
    for expected in staged.manifest.of(section):
        path = made if database else made / expected.below
        path.parent.mkdir(
            mode=0o700 if section is Section.PKI else 0o750, exist_ok=True, parents=True
        )
        _write(reader, path, expected.mode)
    for link in staged.manifest.links:
        name, _, below = link.path.partition("/")
        if name == section.value and not database:
            (made / below).parent.mkdir(mode=folder, parents=True, exist_ok=True)
            (made / below).symlink_to(link.target)
    staged.parts[section] = made


def _write(reader: ArchiveReader, path: Path, mode: int) -> None:
    # Not executable, and nothing that only the group's or others' rights would open.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        reader.next_entry(target.write)
        os.fchmod(descriptor, mode & 0o644)
        target.flush()
        os.fsync(descriptor)


def verify(staged: Staged) -> None:
    """Whether this SIB can work with what was staged.

    Raises:
        SibError: the CA cannot be used, a database is damaged or a newer SIB's.
    """
    with acting_as(staged.account):
        pki = staged.parts.get(Section.PKI)
        if pki is None:
            raise ArchiveRefusedError("it has no CA")
        if Authority.load(pki).pin != staged.manifest.ca_pin:
            raise ArchiveRefusedError("its CA is not the one that its manifest names")
        for section in DATABASES & staged.parts.keys():
            _check_database(staged.parts[section])
        if Section.STATE in staged.parts:
            state = StateDatabase(f"sqlite:///{staged.parts[Section.STATE]}")
            try:
                state.migrate()
            finally:
                state.close()


def _check_database(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}", uri=True)) as opened:
            (answer,) = opened.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        raise ArchiveRefusedError(f"its database {path.name} is damaged ({answer})")


def check_free(places: Places) -> None:
    """Whether no server works on the journal, which would go on writing to it.

    Raises:
        JournalInUseError: one does.
    """
    journal = places.of[Section.JOURNAL]
    account = server_account(places.home)
    with acting_as(account):
        if journal.parent.is_dir():
            with take_lock(journal):
                pass


def put_in_place(staged: Staged, *, replace: bool, clock_ns: int | None = None) -> list[Path]:
    """Set aside what is there, and put the backup in its place.

    Each part goes by renames. Cut off in the middle, the same command does the rest: what was
    there at first stays beside, under its first name with ``.before-restore-`` and a time.

    Args:
        staged: verified.
        replace: whether something may be there.
        clock_ns: nanoseconds since 1970 UTC; now by default.

    Returns:
        What was set aside.

    Raises:
        StateThereError: something is, and may not be.
    """
    occupied = staged.occupied()
    if occupied and not replace:
        raise StateThereError(occupied)
    now_ns = time.time_ns() if clock_ns is None else clock_ns
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // 10**9)) + f"-{now_ns % 10**6:06d}"
    moved: list[Path] = []
    with acting_as(staged.account):
        _note_adoption(staged, now_ns)
        # The CA last: with it alone in place a server would start, and know no host.
        for section in sorted(staged.parts, key=lambda part: part is Section.PKI):
            moved += _swap(staged.parts[section], staged.places.of[section], stamp)
    for name, (content, entry) in staged.config.items():
        moved += _put_config(staged, staged.places.settings.parent / name, content, entry, stamp)
    return moved


def _note_adoption(staged: Staged, now_ns: int) -> None:
    window = AdoptionWindow(taken_ns=staged.manifest.taken_ns, restored_ns=now_ns)
    path = staged.parts[Section.PKI] / ADOPTION_FILE
    with suppress(FileNotFoundError):
        before = msgspec.json.decode(path.read_bytes(), type=AdoptionWindow)
        # A backup that was taken soon after an earlier restore needs that one's window, too.
        window = AdoptionWindow(min(before.taken_ns, window.taken_ns), now_ns)
        path.unlink()
    write_synced(path, msgspec.json.encode(window), 0o640)


def _swap(staged: Path, target: Path, stamp: str) -> list[Path]:
    moved = []
    for name in (target.name, f"{target.name}-wal", f"{target.name}-shm"):
        old = target.with_name(name)
        if old.is_symlink() or old.exists():
            old.rename(aside(old, stamp))
            moved.append(aside(old, stamp))
    staged.rename(target)
    sync_directory(target.parent)
    return moved


def _put_config(staged: Staged, path: Path, content: bytes, entry: Entry, stamp: str) -> list[Path]:
    moved = []
    if path.is_file():
        if path.read_bytes() == content:
            return []
        shutil.copy2(path, aside(path, stamp))
        moved.append(aside(path, stamp))
    # Files of root's alone lie in a directory of root's alone; others have to get to theirs.
    path.parent.mkdir(mode=0o755 if entry.mode & 0o077 else 0o700, parents=True, exist_ok=True)
    write_atomic(path, content, entry.mode & 0o644)
    if os.geteuid() == 0:
        owner = find_account(entry.owner, entry.group, staged.account)
        os.chown(path, owner.uid, owner.gid)
    return moved


def _remove(path: Path, account: Account) -> None:
    with acting_as(account):
        shutil.rmtree(path, ignore_errors=True)
