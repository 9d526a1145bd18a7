"""What a backup says is in it, and what is refused of that. Pure."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec

from sib_protocol.errors import UNDECODABLE
from sib_server.operations.backup.errors import ArchiveRefusedError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024
MAX_FILES: Final = 200_000
MAX_PATH: Final = 200
"""What a plain tar header holds, with room for its parts, so that any tar reads the archive."""
MAX_CONFIG_BYTES: Final = 64 * 1024 * 1024
_MAX_FILE_BYTES: Final = 2**44
_PART: Final = re.compile(r"[^/\x00-\x1f\x7f]{1,100}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ACCOUNT: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class Section(Enum):
    """The parts of a backup, in the order in which they lie in it; the value is their folder."""

    CONFIG = "config"
    PKI = "pki"
    STATE = "state"
    SECRETS = "secrets"
    RULES = "rules"
    BUNDLES = "bundles"
    SIGMA = "sigma"
    INTEL = "intel"
    JOURNAL = "journal"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file.

    Attributes:
        path: section, slash, place below it.
        size: bytes.
        sha256: of the content, hex.
        mode: permissions, nine bits.
        owner: user's name; empty where it had none.
        group: likewise.
    """

    path: str
    size: int
    sha256: str
    mode: int
    owner: str = ""
    group: str = ""

    @property
    def section(self) -> Section:
        """Which part it belongs to."""
        return Section(self.path.split("/", 1)[0])

    @property
    def below(self) -> str:
        """The place below its section's."""
        return self.path.split("/", 1)[1]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A symlink to something beside it.

    Attributes:
        path: as an entry's.
        target: a name in the same directory.
    """

    path: str
    target: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a backup.

    Attributes:
        format: :data:`FORMAT`.
        version: of the SIB that made it.
        taken_ns: when the first copy began, nanoseconds since 1970 UTC.
        machine: the name of the machine.
        ca_pin: SHA-256 of the CA's certificate, hex.
        state_revision: of the state database's schema; empty without one.
        entries: the files, in the archive's order.
        links: to be made after them.
    """

    format: int
    version: str
    taken_ns: int
    machine: str
    ca_pin: str
    state_revision: str
    entries: tuple[Entry, ...]
    links: tuple[Link, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    def of(self, section: Section) -> list[Entry]:
        """The files of one part."""
        return [entry for entry in self.entries if entry.section is section]


def order(entry: Entry) -> tuple[int, str]:
    """The key that sorts entries: settings first, because they say where the rest goes."""
    return list(Section).index(entry.section), entry.path


def parse_manifest(content: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        ArchiveRefusedError: it is none, or asks for what no backup of SIB holds.
    """
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except UNDECODABLE as error:
        raise ArchiveRefusedError(f"its manifest cannot be read ({error})") from error
    check(manifest)
    return manifest


def check(manifest: Manifest) -> None:
    """Refuse what no backup of SIB holds.

    Raises:
        ArchiveRefusedError: says what.
    """
    if manifest.format != FORMAT:
        raise ArchiveRefusedError(f"its format is {manifest.format}, and this SIB knows {FORMAT}")
    if len(manifest.entries) + len(manifest.links) > MAX_FILES:
        raise ArchiveRefusedError(f"it has more than {MAX_FILES} files")
    for entry in manifest.entries:
        _check_path(entry.path)
        if not 0 <= entry.size <= _MAX_FILE_BYTES:
            raise ArchiveRefusedError(f"{entry.path!r} has {entry.size} bytes")
        if not _DIGEST.fullmatch(entry.sha256) or not 0 <= entry.mode <= 0o777:
            raise ArchiveRefusedError(f"{entry.path!r} has a bad checksum or mode")
        for name in filter(None, (entry.owner, entry.group)):
            if not _ACCOUNT.fullmatch(name):
                raise ArchiveRefusedError(f"{entry.path!r} belongs to {name[:40]!r}")
    for link in manifest.links:
        _check_path(link.path)
        if not _is_part(link.target):
            raise ArchiveRefusedError(f"the link {link.path!r} leads elsewhere")
    if list(manifest.entries) != sorted(manifest.entries, key=order):
        raise ArchiveRefusedError("its files are out of order")
    if sum(entry.size for entry in manifest.of(Section.CONFIG)) > MAX_CONFIG_BYTES:
        raise ArchiveRefusedError("its configuration is far too large")
    _check_tree([*(e.path for e in manifest.entries), *(link.path for link in manifest.links)])


def _check_tree(paths: list[str]) -> None:
    """No path twice, and none below one that is a file or a link."""
    known = set(paths)
    if len(known) != len(paths):
        raise ArchiveRefusedError("it has a file twice")
    for path in paths:
        parts = path.split("/")
        if any("/".join(parts[:end]) in known for end in range(1, len(parts))):
            raise ArchiveRefusedError(f"{path!r} lies below a file")


def _check_path(path: str) -> None:
    section, *parts = path.split("/")
    if (
        len(path.encode("utf-8", "replace")) > MAX_PATH
        or section not in {known.value for known in Section}
        or not parts
        or not all(map(_is_part, parts))
    ):
        raise ArchiveRefusedError(f"a file in it is called {path[:120]!r}")


def _is_part(name: str) -> bool:
    return name not in {".", ".."} and _PART.fullmatch(name) is not None and _is_text(name)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
