"""From rule files to the content of a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_protocol.bundles.archive import LIMITS, check_name, pack, unpack
from sib_protocol.bundles.names import BASE, SIB_RULES, tag_part
from sib_protocol.errors import FileAccessError
from sib_server.detection.bundles.failures import BundleContentError, NotReadyError
from sib_server.detection.bundles.publishing import Content, make_content
from sib_server.detection.bundles.releases import Stage
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.items import MacroItem
from sib_server.detection.rules.reading import read_items

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sib_server.detection.bundles.releases import Release
    from sib_server.detection.bundles.repository import Repository

_FOLDERS: Final = ("rules", "drills")
# With a hyphen in bundles of SIB 0.1.0's first builds.
_INDICATORS: Final = re.compile(rf"rules/\d+-{Origin.INTEL.value}[-.]")
_RULES: Final = "rules/"
_TAG_PREFIX: Final = "rules/80-"


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a compiled rule set: ``rules/*.yaml`` and ``drills/*.yaml`` below a folder.

    Raises:
        FileAccessError: it cannot be read.
        BundleContentError: there are none.
        ArchiveError: a name that cannot be in a bundle.
    """
    found = {
        check_name(f"{part}/{path.name}"): _read(path)
        for part in _FOLDERS
        for path in sorted((folder / part).glob("*.yaml"))
    }
    if not found:
        raise BundleContentError(
            f"{folder} has no rules/*.yaml", "write a rule set with 'sib-server rules compile'"
        )
    return found


def read_tag_rules(folder: Path) -> dict[str, dict[str, bytes]]:
    """Each tag's own rule files, as the part that its hosts get beside the base.

    They are loaded after all others: ``TAG/NAME.yaml`` becomes ``rules/80-TAG-NAME.yaml``.

    Raises:
        FileAccessError: they cannot be read.
        ArchiveError: a tag or name that cannot be in a bundle.
    """
    if not folder.is_dir():
        return {}
    parts = {}
    for place in sorted(folder.iterdir()):
        files = sorted(place.glob("*.yaml")) if place.is_dir() else []
        if files:
            parts[tag_part(place.name)] = {
                check_name(f"{_TAG_PREFIX}{place.name}-{path.name}"): _read(path) for path in files
            }
    return parts


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LIMITS.file + 1)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def build(base: Mapping[str, bytes], tags: Mapping[str, Mapping[str, bytes]]) -> Content:
    """The content of a bundle.

    Raises:
        BundleContentError: a tag's file has the name of one that every host has, or changes a
            macro that the compiler has put into SIB's rules, which would do nothing.
        ArchiveError: see :func:`~.publishing.make_content`.
    """
    # SIB's rules are read again only where there is a tag's file to hold against them.
    sibs = [
        (name, body)
        for name, body in base.items()
        if tags and SIB_RULES.fullmatch(name.removeprefix(_RULES))
    ]
    put_in = {macro for name, body in sibs for macro in _macros(name, body)}
    for part, files in tags.items():
        both = sorted(set(files) & set(base))
        if both:
            raise BundleContentError(f"{part} has {both[0]}, which every host has already")
        for name, body in files.items():
            if lost := sorted(put_in.intersection(_macros(name, body))):
                raise BundleContentError(
                    f"{name} changes {lost[0]}, which is put into SIB's rules already",
                    "change the macro for all hosts, beside the folders of tags; or override the"
                    " rules' conditions",
                )
    return make_content(base, tags)


def _macros(name: str, body: bytes) -> Iterator[str]:
    items, _ = read_items(name, body)
    return (item.name for item in items if isinstance(item, MacroItem))


def with_indicators_of(
    published: Mapping[str, bytes], fresh: Mapping[str, bytes]
) -> dict[str, bytes]:
    """What is published already, with fresh indicators and nothing else that is new.

    So a timer can renew indicators without handing out what somebody is still at work on.

    Args:
        published: every host's files of the newest bundle.
        fresh: those of a rule set that was compiled now.
    """
    kept = {name: content for name, content in published.items() if not _INDICATORS.match(name)}
    return kept | {name: content for name, content in fresh.items() if _INDICATORS.match(name)}


@dataclass(frozen=True, slots=True)
class Difference:
    """What a new bundle changes.

    Attributes:
        added: files that are new, as ``part/folder/name``.
        removed: files that are gone.
        changed: files with other content.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def compare(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Difference:
    """What is different between the files of two bundles."""
    return Difference(
        added=tuple(sorted(set(new) - set(old))),
        removed=tuple(sorted(set(old) - set(new))),
        changed=tuple(sorted(name for name in set(old) & set(new) if old[name] != new[name])),
    )


def files_of(archives: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files of a bundle's archives, as ``part/folder/name``."""
    return {
        (name if part == BASE else f"{part}/{name}"): content
        for part, packed in archives.items()
        for name, content in unpack(packed).items()
    }


def renewed(repository: Repository, fresh: Mapping[str, bytes]) -> Content:
    """The newest bundle's content with the indicators of a rule set compiled now.

    Raises:
        NotReadyError: there is no bundle yet, or one is on trial with canaries.
        FileAccessError: an archive of it is not there.
    """
    releases = repository.releases()
    if not releases.newest:
        raise NotReadyError("no bundle was published yet", "sib-server bundle publish")
    if releases.rollout.stage is Stage.CANARY:
        # A new bundle goes to all hosts at once, and would take along what is still on trial.
        raise NotReadyError(
            f"bundle {releases.rollout.candidate} is on trial with canaries",
            "wait until that is over, or: sib-server bundle promote",
        )
    archives = archives_of(repository, releases.find(releases.newest))
    base = with_indicators_of(unpack(archives[BASE]), fresh)
    return Content({**archives, BASE: pack(base)})


def archives_of(repository: Repository, release: Release | None) -> dict[str, bytes]:
    """A release's archives.

    Raises:
        FileAccessError: one is not there.
    """
    parts = release.parts if release is not None else ()
    found = {}
    for part in parts:
        path = repository.archive(part.sha256)
        try:
            found[part.name] = path.read_bytes()
        except OSError as error:
            raise FileAccessError(path, error.strerror or str(error)) from error
    return found
