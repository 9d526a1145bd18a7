"""Reading Sigma files, folders and SigmaHQ's release zip, none of which is trusted."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import yaml

from sib_protocol.files import read_regular
from sib_server.detection.sigma.errors import CollectionError, RuleRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_RULE_BYTES: Final = 256 * 1024
"""One file. SigmaHQ's largest rule has 40 KiB."""
MAX_FILES: Final = 20_000
"""Files read by one command. SigmaHQ's release has about 4,000."""
MAX_ARCHIVE_BYTES: Final = 64 * 1024 * 1024
"""A zip, packed."""
MAX_TOTAL_BYTES: Final = 256 * 1024 * 1024
"""All files of one command, unpacked."""
MAX_DEPTH: Final = 60
"""Nesting of YAML; deeper than any rule, shallower than Python's stack."""
MAX_DOCUMENTS: Final = 1000
"""YAML documents in one file."""
_SUFFIXES: Final = (".yml", ".yaml")


@dataclass(frozen=True, slots=True)
class RuleFile:
    """One file's text.

    Attributes:
        path: as shown to people: a file, or ``archive.zip!member``.
        text: the content.
    """

    path: str
    text: str


class _Budget:
    """What one command may still read."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0

    def take(self, where: str, size: int) -> None:
        self.files += 1
        self.bytes += size
        if self.files > MAX_FILES:
            raise CollectionError(where, f"more than {MAX_FILES} files")
        if self.bytes > MAX_TOTAL_BYTES:
            raise CollectionError(where, f"more than {MAX_TOTAL_BYTES} bytes in all")


def read_files(paths: Iterable[Path]) -> Iterator[RuleFile | RuleRefusedError]:
    """Read rules in a fixed order; a file that is too large or no text is given as a refusal.

    Raises:
        CollectionError: a path that does not exist, no zip where one was named, or too much.
    """
    budget = _Budget()
    for path in paths:
        if path.is_dir():
            yield from _folder(path, budget)
        elif path.suffix.lower() == ".zip":
            yield from _archive(path, budget)
        else:
            yield _file(path, budget)


def _folder(folder: Path, budget: _Budget) -> Iterator[RuleFile | RuleRefusedError]:
    for directory, subdirectories, names in os.walk(folder, followlinks=False):
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield _file(Path(directory) / name, budget)


def _file(path: Path, budget: _Budget) -> RuleFile | RuleRefusedError:
    try:
        content = read_regular(path, MAX_RULE_BYTES + 1)
    except OSError as error:
        raise CollectionError(path, error.strerror or str(error)) from error
    return _decoded(str(path), content, budget)


def _decoded(where: str, content: bytes, budget: _Budget) -> RuleFile | RuleRefusedError:
    budget.take(where, len(content))
    if len(content) > MAX_RULE_BYTES:
        return RuleRefusedError(where, "", f"larger than {MAX_RULE_BYTES} bytes")
    try:
        return RuleFile(where, content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RuleRefusedError(where, "", "not UTF-8 text")


def _archive(path: Path, budget: _Budget) -> Iterator[RuleFile | RuleRefusedError]:
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise CollectionError(path, f"larger than {MAX_ARCHIVE_BYTES} bytes")
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise CollectionError(path, error.strerror or str(error)) from error
    except zipfile.BadZipFile as error:
        raise CollectionError(path, "not a zip archive") from error
    with archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        for member in members:
            if member.is_dir() or not member.filename.lower().endswith(_SUFFIXES):
                continue
            yield _member(path, archive, member, budget)


def _member(
    path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: _Budget
) -> RuleFile | RuleRefusedError:
    where = f"{path}!{member.filename}"
    name = PurePosixPath(member.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
        # Nothing is ever unpacked to disk; a name made to climb out is not a release's.
        return RuleRefusedError(where, "", "the archive names a path outside itself")
    if stat.S_ISLNK(member.external_attr >> 16):
        return RuleRefusedError(where, "", "a link inside an archive")
    try:
        with archive.open(member) as file:
            # The size in the archive's index is a claim; this is the limit.
            content = file.read(MAX_RULE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        return RuleRefusedError(where, "", f"unreadable in the archive: {error}")
    return _decoded(where, content, budget)


def parse(file: RuleFile) -> list[dict[str, Any]]:
    """A file's YAML documents.

    Raises:
        RuleRefusedError: not YAML, with aliases (which could grow without limit), nested too deep,
        or
            not mappings.
    """
    depth = documents = 0
    try:
        for event in yaml.parse(file.text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise RuleRefusedError(file.path, "", "YAML aliases are not accepted")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            documents += isinstance(event, yaml.DocumentStartEvent)
            if depth > MAX_DEPTH or documents > MAX_DOCUMENTS:
                raise RuleRefusedError(file.path, "", "nested too deep or too many documents")
        loaded = list(yaml.load_all(file.text, Loader=yaml.CSafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise RuleRefusedError(file.path, "", f"not valid YAML: {reason}") from error
    found = [document for document in loaded if document is not None]
    if not all(isinstance(document, dict) for document in found):
        raise RuleRefusedError(file.path, "", "a document is not a mapping")
    return found
