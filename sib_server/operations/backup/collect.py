"""Copying what belongs to a backup, beside a running server."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import stat
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sib_protocol import __version__
from sib_protocol.errors import FileAccessError
from sib_server.operations.accounts import (
    Account,
    acting_as,
    group_name,
    own_account,
    server_account,
    user_name,
)
from sib_server.operations.backup.archive import fits_header
from sib_server.operations.backup.errors import NoRoomError, OutsideStateError
from sib_server.operations.backup.manifest import (
    FORMAT,
    MAX_PATH,
    Entry,
    Link,
    Manifest,
    Section,
    check,
    order,
)
from sib_server.operations.backup.places import DATABASES, SETTINGS, Places, is_config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_CHUNK: Final = 1024 * 1024
_SPARE: Final = 64 * 1024 * 1024
_TREES: Final = (
    Section.PKI,
    Section.SECRETS,
    Section.RULES,
    Section.BUNDLES,
    Section.SIGMA,
    Section.INTEL,
)


@dataclass(slots=True)
class Collection:
    """Copies of everything, and what they are.

    Attributes:
        entries: the files, in no order.
        links: symlinks.
        copies: an entry's path -> where its copy lies.
        left_out: what was passed over, one sentence each.
        revision: of the state database's schema.
    """

    entries: list[Entry] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    copies: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    revision: str = ""

    def open(self, entry: Entry) -> BinaryIO:
        """A file's copy."""
        # The directory may be the daemon's: a link in the copy's place is not followed.
        descriptor = os.open(
            self.copies[entry.path], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
        return os.fdopen(descriptor, "rb")

    def manifest(self, ca_pin: str, taken_ns: int) -> Manifest:
        """What is in it. Raises ArchiveRefusedError: not even SIB could read it back."""
        made = Manifest(
            format=FORMAT,
            version=__version__,
            taken_ns=taken_ns,
            machine=socket.gethostname(),
            ca_pin=ca_pin,
            state_revision=self.revision,
            entries=tuple(sorted(self.entries, key=order)),
            links=tuple(self.links),
        )
        check(made)
        return made


@contextmanager
def collect(
    places: Places, *, journal: bool, state: bool, work: Path | None
) -> Iterator[Collection]:
    """Copy everything; the copies go when the body ends.

    Args:
        places: where it lies.
        journal: with the journal.
        state: with the state database.
        work: where the server's own files are copied to; by default into its home.

    Raises:
        OutsideStateError: the state is not in SQLite, and was wanted.
        NoRoomError: the copies do not fit.
        FileAccessError: something cannot be read.
    """
    if state and Section.STATE not in places.of:
        raise OutsideStateError("PostgreSQL")
    wanted = {*_TREES, Section.CONFIG}
    wanted |= {Section.STATE} if state else set()
    wanted |= {Section.JOURNAL} if journal else set()
    account = server_account(places.home)
    collection = Collection()
    with (
        _directory(work or places.home, account) as copies,
        _directory(None, own_account()) as config,
    ):
        with acting_as(account):
            _check_room(copies, [places.of[part] for part in DATABASES & wanted])
            for section in sorted(wanted, key=list(Section).index):
                if section in DATABASES:
                    _copy_database(collection, section, places.of[section], copies)
                elif section is not Section.CONFIG:
                    _copy_tree(collection, section, places.of[section], copies)
        _copy_config(collection, places, config)
        yield collection


@contextmanager
def _directory(parent: Path | None, account: Account) -> Iterator[Path]:
    with acting_as(account):
        made = Path(tempfile.mkdtemp(prefix=".sib-backup-", dir=parent))
    try:
        yield made
    finally:
        with acting_as(account):
            shutil.rmtree(made, ignore_errors=True)


def _check_room(directory: Path, databases: list[Path]) -> None:
    needed = sum(path.stat().st_size for path in databases if path.exists()) + _SPARE
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise NoRoomError(directory, needed, free)


def _copy_database(collection: Collection, section: Section, path: Path, copies: Path) -> None:
    """A consistent copy by SQLite itself, whoever writes meanwhile."""
    if not path.is_file():
        collection.left_out.append(f"{path} is not there")
        return
    target = copies / section.value
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            # In one step: one snapshot, and with a write-ahead log no writer waits for it.
            source.backup(copy)
            # The copy is alone: it must not need a log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            if section is Section.STATE:
                collection.revision = _revision(copy)
    except sqlite3.Error as error:
        raise FileAccessError(path, f"cannot be copied: {error}") from error
    _add(collection, f"{section.value}/{path.name}", target, path.stat())


def _revision(connection: sqlite3.Connection) -> str:
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        return ""
    return str(row[0]) if row else ""


def _copy_tree(collection: Collection, section: Section, root: Path, copies: Path) -> None:
    if not root.is_dir():
        return
    target = copies / f"{section.value}.d"
    target.mkdir(mode=0o700)
    for folder, folders, files, descriptor in os.fwalk(root, follow_symlinks=False):
        folders.sort()
        for name in sorted({*files, *folders}):
            path = Path(folder) / name
            stored = f"{section.value}/{path.relative_to(root).as_posix()}"
            _take(collection, _Found(stored, path, descriptor), target)


def _copy_config(collection: Collection, places: Places, copies: Path) -> None:
    root = places.settings.parent
    if not root.is_dir():
        return
    for folder, folders, files, descriptor in os.fwalk(root, follow_symlinks=False):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if is_config(places, here / name))
        for name in sorted(files):
            path = here / name
            if path == places.settings:
                stored = f"config/{SETTINGS}"
            elif is_config(places, path) and path.relative_to(root).as_posix() != SETTINGS:
                stored = f"config/{path.relative_to(root).as_posix()}"
            else:
                continue
            _take(collection, _Found(stored, path, descriptor), copies)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file on the way: what it is called in the backup, where it is, its directory opened."""

    stored: str
    path: Path
    directory: int


def _take(collection: Collection, item: _Found, copies: Path) -> None:
    """Copy one file, or note one link; never through a link."""
    stored, name, directory = item.stored, item.path.name, item.directory
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode) or (name.startswith(".") and stat.S_ISREG(found.st_mode)):
        return
    if len(stored.encode("utf-8", "replace")) > MAX_PATH or not fits_header(stored):
        collection.left_out.append(f"{item.path}: its path is too long for a backup")
        return
    if stat.S_ISLNK(found.st_mode):
        target = os.readlink(name, dir_fd=directory)
        if "/" in target or target in {".", ".."}:
            collection.left_out.append(f"{item.path} leads to {target}: links are not followed")
        else:
            collection.links.append(Link(stored, target))
        return
    if not stat.S_ISREG(found.st_mode):
        return
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory
        )
    except FileNotFoundError:
        return  # replaced meanwhile, as certificates are
    target_path = copies / f"{len(collection.copies):06d}"
    with os.fdopen(descriptor, "rb") as source, target_path.open("xb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
    _add(collection, stored, target_path, found)


def _add(collection: Collection, stored: str, copy: Path, found: os.stat_result) -> None:
    digest = hashlib.sha256()
    size = 0
    with copy.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    collection.entries.append(
        Entry(
            path=stored,
            size=size,
            sha256=digest.hexdigest(),
            mode=stat.S_IMODE(found.st_mode) & 0o777,
            owner=user_name(found.st_uid),
            group=group_name(found.st_gid),
        )
    )
    collection.copies[stored] = copy


def now_ns() -> int:
    """Nanoseconds since 1970 UTC."""
    return time.time_ns()
