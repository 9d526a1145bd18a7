"""The two commands as functions: make a backup, and put one back."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from sib_server.operations.accounts import acting_as, server_account
from sib_server.operations.backup.archive import ArchiveReader, write_archive
from sib_server.operations.backup.collect import collect, now_ns
from sib_server.operations.backup.manifest import Section
from sib_server.operations.backup.places import find_places
from sib_server.operations.backup.restore import check_free, put_in_place, stage, verify
from sib_server.operations.backup.sealing import unseal
from sib_server.pki.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from sib_server.operations.backup.manifest import Manifest
    from sib_server.operations.backup.restore import Staged
    from sib_server.operations.backup.sealing import Identity
    from sib_server.settings import ServerSettings


class BackupReport(msgspec.Struct, frozen=True):
    """What went into a backup.

    Attributes:
        taken_ns: nanoseconds since 1970 UTC.
        files: how many.
        size: their bytes, before compression.
        parts: part -> bytes.
        left_out: what was passed over, one sentence each.
    """

    taken_ns: int
    files: int
    size: int
    parts: dict[str, int]
    left_out: list[str]


class RestoreReport(msgspec.Struct, frozen=True):
    """What a restore did, or would do.

    Attributes:
        machine: where the backup was taken.
        taken_ns: when, nanoseconds since 1970 UTC.
        version: by which SIB.
        ca_pin: SHA-256 of its CA.
        places: part -> where it went.
        set_aside: what was there, under its new name; in a dry run what would be, under its old.
    """

    machine: str
    taken_ns: int
    version: str
    ca_pin: str
    places: dict[str, str]
    set_aside: list[str]


def back_up(
    settings: ServerSettings,
    settings_file: Path,
    put: Callable[[Iterator[bytes], int], None],
    *,
    journal: bool = False,
    state: bool = True,
    work: Path | None = None,
) -> BackupReport:
    """Copy a server, whether it runs or not.

    Args:
        settings: the server's.
        settings_file: where they are.
        put: takes the archive in chunks, and how many bytes of files are in it; encrypts them.
        journal: with the journal.
        state: with the state database.
        work: where copies lie meanwhile.

    Raises:
        SibError: something cannot be copied; there is no backup then.
    """
    places = find_places(settings, settings_file)
    taken_ns = now_ns()
    with collect(places, journal=journal, state=state, work=work) as collection:
        with acting_as(server_account(places.home)):
            pin = Authority.load(settings.pki.directory).pin
        manifest = collection.manifest(pin, taken_ns)
        put(write_archive(manifest, collection.open), manifest.size)
    return BackupReport(
        taken_ns=taken_ns,
        files=len(manifest.entries),
        size=manifest.size,
        parts={
            section.value: sum(entry.size for entry in manifest.of(section))
            for section in Section
            if manifest.of(section)
        },
        left_out=collection.left_out,
    )


@contextmanager
def opened(
    source: BinaryIO,
    key: str | Sequence[Identity],
    settings_file: Path,
    own_settings: ServerSettings | None,
) -> Iterator[Staged]:
    """A backup, read whole, verified, and staged beside its places; gone when the body ends.

    Args:
        source: the file.
        key: what opens it.
        settings_file: where the settings file is or goes.
        own_settings: this machine's, where they are to stay.

    Raises:
        SibError: it cannot be used; nothing was touched.
    """
    with ExitStack() as stack:
        with unseal(source, key) as plain:
            staged = stage(ArchiveReader(plain), stack, settings_file, own_settings)
        verify(staged)
        yield staged


def restore(staged: Staged, *, replace: bool, dry_run: bool = False) -> RestoreReport:
    """Put a staged backup in place, or say what that would do.

    Raises:
        JournalInUseError: a server runs, and it is no dry run.
        StateThereError: something is there and may not be replaced.
    """
    if dry_run:
        aside = staged.occupied()
    else:
        check_free(staged.places)
        aside = put_in_place(staged, replace=replace)
    places = {section.value: str(path) for section, path in staged.targets().items()}
    if staged.config:
        places[Section.CONFIG.value] = str(staged.places.settings.parent)
    manifest: Manifest = staged.manifest
    return RestoreReport(
        machine=manifest.machine,
        taken_ns=manifest.taken_ns,
        version=manifest.version,
        ca_pin=manifest.ca_pin,
        places=places,
        set_aside=[str(path) for path in aside],
    )
