"""Bundles on disk: a directory each, one symlink, and what is remembered.

Only directories of bundles and the symlink are in the folder that Falco's reload watches; what is
being unpacked and what is remembered are beside it, so that Falco is not told of every change.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from sib_agent.bundles.freshness import Held
from sib_agent.bundles.plan import Disk
from sib_agent.bundles.state import BundleState
from sib_protocol.bundles.names import parse_target_name
from sib_protocol.errors import UNDECODABLE, MalformedMessageError
from sib_protocol.files import sync_directory, write_atomic, write_synced

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CURRENT: Final = "current"
PARTS: Final = ("rules", "drills")
_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_DIRECTORY_MODE: Final = 0o750
_FILE_MODE: Final = 0o640


class _Signed(msgspec.Struct, frozen=True):
    expires: datetime
    targets: dict[str, object] = {}


class _Metadata(msgspec.Struct, frozen=True):
    signed: _Signed


class BundleStore:
    """The two folders.

    Args:
        bundles: one directory a version, and ``current``.
        state: on the same file system.
    """

    def __init__(self, bundles: Path, state: Path) -> None:
        self.bundles = bundles
        self.state = state

    def trust(self, root: str) -> Path:
        """Where TUF's metadata are kept that begin with a root.

        Args:
            root: its SHA-256, hex.
        """
        return self.state / "trust" / root[:16]

    def held(self, root: str) -> Held | None:
        """What was proven last under a root; ``None`` if nothing was."""
        timestamp, targets = (
            self._metadata(self.trust(root) / f"{role}.json") for role in ("timestamp", "targets")
        )
        if timestamp is None or targets is None:
            return None
        try:
            versions = frozenset(parse_target_name(name).version for name in targets.targets)
        except MalformedMessageError:
            return None
        return Held(timestamp.expires.timestamp(), versions)

    def _metadata(self, path: Path) -> _Signed | None:
        """Proven before it was written, by TUF's client."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Metadata).signed
        except (FileNotFoundError, NotADirectoryError, *UNDECODABLE):
            return None

    def prepare(self) -> None:
        """Make what is missing: the folders, and the empty bundle 0 as the one in force."""
        for path in (self.bundles, self.state):
            path.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        for path in self.state.glob("staging-*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.bundles.glob(f".{CURRENT}.*"):
            path.unlink()
        if not (self.bundles / "0").is_dir():
            self.stage(0, {})
        if not (self.bundles / CURRENT).is_symlink():
            self.point(0)

    def disk(self) -> Disk:
        """What is there."""
        names = [path.name for path in self.bundles.iterdir() if (path / PARTS[0]).is_dir()]
        complete = frozenset(int(name) for name in names if _VERSION.fullmatch(name))
        try:
            target = os.readlink(self.bundles / CURRENT)  # noqa: PTH115  (its text, not a path)
        except OSError:
            target = ""
        return Disk(int(target) if _VERSION.fullmatch(target) else None, complete)

    def load(self) -> BundleState:
        """What is remembered; nothing, where that is damaged."""
        try:
            text = (self.state / "state.json").read_bytes()
            return msgspec.json.decode(text, type=BundleState)
        except (FileNotFoundError, *UNDECODABLE):
            return BundleState()

    def save(self, state: BundleState) -> None:
        """Remember, durably."""
        write_atomic(self.state / "state.json", msgspec.json.encode(state), _FILE_MODE)

    def stage(self, version: int, files: Mapping[str, bytes]) -> None:
        """Put a bundle's files beside the others, all or none.

        Args:
            version: its directory; one that is there already is replaced.
            files: names as in a bundle's archive, checked before.
        """
        staging = self.state / f"staging-{secrets.token_hex(6)}"
        try:
            for folder in (staging, *(staging / part for part in PARTS)):
                folder.mkdir(mode=_DIRECTORY_MODE)
                folder.chmod(_DIRECTORY_MODE)
            for name, content in files.items():
                write_synced(staging / name, content, _FILE_MODE)
            for folder in (*(staging / part for part in PARTS), staging):
                sync_directory(folder)
            self.remove(version)
            staging.rename(self.bundles / str(version))
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_directory(self.bundles)

    def point(self, version: int) -> None:
        """Let ``current`` name a version, by one rename."""
        temporary = self.bundles / f".{CURRENT}.{secrets.token_hex(6)}"
        temporary.symlink_to(str(version))
        try:
            temporary.replace(self.bundles / CURRENT)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(self.bundles)

    def remove(self, version: int) -> None:
        """Remove a version; first out of sight, so that half of one is never seen."""
        path = self.bundles / str(version)
        if path.is_dir():
            gone = self.state / f"staging-{secrets.token_hex(6)}"
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self, keep: Iterable[int]) -> None:
        """Remove every version but some, and the empty one."""
        for version in self.disk().complete - {0, *keep}:
            self.remove(version)

    def rules(self, version: int) -> dict[str, str]:
        """SHA-256 of each of a version's rule files, by file name."""
        return {path.name: _digest(path) for path in self.rule_files(version)}

    def rule_files(self, version: int) -> list[Path]:
        """A version's rule files, in the order in which Falco loads them."""
        return sorted((self.bundles / str(version) / PARTS[0]).glob("*.yaml"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
