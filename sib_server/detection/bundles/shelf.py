"""What hosts fetch, in memory: the files of the repository that are in force, and no others."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sib_server.detection.bundles.releases import Releases

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from sib_server.detection.bundles.repository import Repository

_METADATA: Final = re.compile(r"timestamp\.json|[0-9]{1,12}\.(root|targets|snapshot)\.json")
_MAX_METADATA: Final = 1024 * 1024

Mark = tuple[tuple[int, int], ...]
"""What changes when the repository does."""


@dataclass(frozen=True, slots=True)
class Document:
    """One file as it is served.

    Attributes:
        content: all of it.
        etag: its digest, in quotes.
    """

    content: bytes
    etag: str

    @classmethod
    def of(cls, content: bytes) -> Document:
        """With the digest of its content."""
        return cls(content, f'"{hashlib.sha256(content).hexdigest()}"')


@dataclass(frozen=True, slots=True)
class Shelf:
    """Everything that is served.

    Attributes:
        metadata: by file name.
        targets: by name, the digest in front.
        releases: as of the same instant, or a little later.
        root: the newest root's version; 0 without a repository.
        mark: of the repository when this was read.
    """

    metadata: Mapping[str, Document] = field(default_factory=dict)
    targets: Mapping[str, Document] = field(default_factory=dict)
    releases: Releases = field(default_factory=Releases)
    root: int = 0
    mark: Mark = ()

    def root_text(self) -> str | None:
        """The newest root, JSON; ``None`` without a repository."""
        found = self.metadata.get(f"{self.root}.root.json")
        return None if found is None else found.content.decode()


def repository_mark(repository: Repository) -> Mark:
    """Two looks at the disk, cheap enough for every second; empty without a repository."""
    return tuple(
        (found.st_ino, found.st_mtime_ns)
        # Metadata come and go by rename, which changes their directory; a new root alone does, too.
        for path in (repository.metadata, repository.directory / "releases.json")
        if (found := _stat(path)) is not None
    )


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def load_shelf(repository: Repository) -> Shelf:
    """Read the repository.

    Raises:
        RepositoryDamagedError, FileAccessError: something is not there, for whatever reason; a
            publisher at work in this instant is one, and a second try finds it done.
    """
    mark = repository_mark(repository)
    if not repository.exists:
        return Shelf(mark=mark)
    metadata = {
        path.name: Document.of(path.read_bytes())
        for path in repository.metadata.iterdir()
        if _METADATA.fullmatch(path.name) and path.stat().st_size <= _MAX_METADATA
    }
    targets = repository.targets()
    documents = {}
    for name, target in (targets.targets if targets is not None else {}).items():
        digest = target.hashes["sha256"]
        content = repository.archive(digest).read_bytes()
        documents[f"{digest}.{name}"] = Document(content, f'"{digest}"')
    return Shelf(metadata, documents, repository.releases(), repository.root().version, mark)
