"""The indices of an apt repository: what apt reads, and nothing of where it comes from. Pure."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

SUITE: Final = "stable"
COMPONENT: Final = "main"


@dataclass(frozen=True, slots=True)
class Deb:
    """One package as an index describes it.

    Attributes:
        control: its control file, ending in one newline.
        name: package.
        version: Debian's.
        architecture: Debian's.
        size: bytes.
        sha256: hex.
    """

    control: str
    name: str
    version: str
    architecture: str
    size: int
    sha256: str

    @property
    def place(self) -> str:
        """Where it lies below the repository; an epoch's colon is no part of a file name."""
        version = self.version.split(":", 1)[-1]
        return f"pool/{COMPONENT}/{self.name}/{self.name}_{version}_{self.architecture}.deb"


def index(packages: Iterable[Deb], architecture: str) -> bytes:
    """The file Packages of one architecture, sorted by name and version's text."""
    chosen = [item for item in packages if item.architecture in {architecture, "all"}]
    chosen.sort(key=lambda item: (item.name, item.version, item.architecture))
    return "\n".join(
        f"{item.control.rstrip()}\nFilename: {item.place}\n"
        f"Size: {item.size}\nSHA256: {item.sha256}\n"
        for item in chosen
    ).encode()


def indices(packages: Iterable[Deb]) -> dict[str, bytes]:
    """All indices: path below ``dists/SUITE`` -> content, without Release."""
    known = list(packages)
    files: dict[str, bytes] = {}
    for architecture in architectures(known):
        folder = f"{COMPONENT}/binary-{architecture}"
        text = index(known, architecture)
        files[f"{folder}/Packages"] = text
        files[f"{folder}/Packages.gz"] = gzip.compress(text, 9, mtime=0)
    return files


def architectures(packages: Iterable[Deb]) -> list[str]:
    """The architectures to make an index for."""
    return sorted({item.architecture for item in packages} - {"all"}) or ["amd64"]


def by_hash(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same indices under their checksums, so that a client never sees two states mixed."""
    return {
        f"{path.rsplit('/', 1)[0]}/by-hash/SHA256/{hashlib.sha256(content).hexdigest()}": content
        for path, content in files.items()
    }


def release(
    files: Mapping[str, bytes], packages: Iterable[Deb], epoch: int, valid_days: int | None
) -> bytes:
    """The file Release.

    Args:
        files: of :func:`indices`.
        packages: what is in them.
        epoch: the repository's date, in seconds since 1970.
        valid_days: after so many days apt takes the repository for a frozen one; None: never.
    """
    head = {
        "Origin": "SIB",
        "Label": "SIEM in a Box",
        "Suite": SUITE,
        "Codename": SUITE,
        "Date": _date(epoch),
    }
    if valid_days is not None:
        head["Valid-Until"] = _date(epoch + valid_days * 86_400)
    head |= {
        "Acquire-By-Hash": "yes",
        "Architectures": " ".join(architectures(packages)),
        "Components": COMPONENT,
        "Description": "SIEM in a Box",
    }
    lines = [f"{name}: {value}" for name, value in head.items()]
    lines.append("SHA256:")
    lines += [
        f" {hashlib.sha256(files[path]).hexdigest()} {len(files[path]):8d} {path}"
        for path in sorted(files)
    ]
    return ("\n".join(lines) + "\n").encode()


def _date(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, tz=timezone.utc).strftime("%a, %d %b %Y %H:%M:%S UTC")
