"""The TUF repository on disk: metadata, archives, keys, and what was released.

``timestamp.json`` is what everything hangs on, and it is written last: a crash at any instant
leaves the old repository in force, or the new one. What hosts are told to fetch
(``releases.json``) is written after that, so nobody is sent for something that is not there yet.
Metadata that hosts may just be reading stay for some versions.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from sib_protocol.errors import UNDECODABLE, FileAccessError
from sib_protocol.files import write_atomic
from sib_server.detection.bundles import metadata as plan
from sib_server.detection.bundles.expiries import Expiries
from sib_server.detection.bundles.failures import (
    RepositoryBusyError,
    RepositoryDamagedError,
    RepositoryMissingError,
)
from sib_server.detection.bundles.keys import ROOT, KeyStore, new_signer
from sib_server.detection.bundles.releases import Releases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from securesystemslib.signer import CryptoSigner

    from sib_server.detection.bundles.releases import Release

_Signed = TypeVar("_Signed", Root, Targets, Snapshot, Timestamp)

TIMESTAMP_FILE: Final = "timestamp.json"
_LOCK_SECONDS: Final = 30.0
_KEPT_METADATA: Final = 8
_MODE: Final = 0o640


class Repository:
    """The repository's directory.

    Every change is made under one lock that all processes share.

    Args:
        directory: of the settings.
        expiries: how long what is signed is valid.
        clock: nanoseconds since 1970 UTC.
    """

    def __init__(
        self,
        directory: Path,
        expiries: Expiries | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.directory = directory
        self.metadata = directory / "metadata"
        self.archives = directory / "archives"
        self.keys = KeyStore(directory / "keys")
        self._expiries = expiries or Expiries()
        self._clock = clock

    @property
    def exists(self) -> bool:
        """Whether it was made."""
        return (self.metadata / TIMESTAMP_FILE).is_file()

    def create(self, *, root_keys: int = 1, root_threshold: int = 1) -> bool:
        """Make it, with new keys, or finish what was begun. Returns whether anything was to do."""
        for path in (self.directory, self.metadata, self.archives):
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
        with self.locked():
            if self.exists:
                return False
            if not list(self.metadata.glob("*.root.json")):
                self._create_root(root_keys, root_threshold)
            self.sign_online(releases=())
            return True

    def _create_root(self, count: int, threshold: int) -> None:
        signers: dict[str, list[CryptoSigner]] = {
            role: [new_signer() for _ in range(count if role == ROOT else 1)]
            for role in (ROOT, *plan.ONLINE_ROLES)
        }
        for role, own in signers.items():
            for signer in own:
                self.keys.keep(role, signer)
        keys = {role: [one.public_key for one in own] for role, own in signers.items()}
        root = plan.first_root(keys, threshold, self._now(), self._expiries.root)
        self.write_root(root, signers[ROOT], before=root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repository alone.

        Raises:
            RepositoryBusyError: another process holds it for too long.
        """
        path = self.directory / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as error:
            raise RepositoryMissingError(self.directory) from error
        except OSError as error:
            raise FileAccessError(path, error.strerror or str(error)) from error
        try:
            end = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise RepositoryBusyError(self.directory) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    def root(self) -> Root:
        """The root in force. Raises RepositoryMissingError, RepositoryDamagedError."""
        return self._read(self.root_path(), Root).signed

    def root_path(self) -> Path:
        """The newest root's file. Raises RepositoryMissingError."""
        found = _newest(self.metadata.glob("*.root.json"))
        if found is None:
            raise RepositoryMissingError(self.directory)
        return found

    def targets(self) -> Targets | None:
        """The list of targets that the snapshot in force names; ``None`` before there is one."""
        chain = self._chain()
        return None if chain is None else chain[0]

    def chain(self) -> dict[str, Targets | Snapshot | Timestamp]:
        """Targets, snapshot and timestamp in force, by role.

        Raises:
            RepositoryMissingError, RepositoryDamagedError: as they say.
        """
        found = self._chain()
        if found is None:
            raise RepositoryMissingError(self.directory)
        return {one.type: one for one in found}

    def timestamp(self) -> Timestamp:
        """The timestamp in force. Raises RepositoryMissingError, RepositoryDamagedError."""
        return self._read(self.metadata / TIMESTAMP_FILE, Timestamp).signed

    def _chain(self) -> tuple[Targets, Snapshot, Timestamp] | None:
        if not self.exists:
            return None
        timestamp = self.timestamp()
        version = timestamp.snapshot_meta.version
        snapshot = self._read(self.metadata / f"{version}.snapshot.json", Snapshot).signed
        version = snapshot.meta["targets.json"].version
        targets = self._read(self.metadata / f"{version}.targets.json", Targets).signed
        return targets, snapshot, timestamp

    def _read(self, path: Path, kind: type[_Signed]) -> Metadata[_Signed]:
        try:
            found = Metadata[kind].from_bytes(path.read_bytes())  # type: ignore[valid-type]
        except FileNotFoundError as error:
            if not self.exists:
                raise RepositoryMissingError(self.directory) from error
            raise RepositoryDamagedError(path, "it is missing") from error
        except OSError as error:
            raise FileAccessError(path, error.strerror or str(error)) from error
        except RepositoryError as error:
            raise RepositoryDamagedError(path, "not TUF metadata") from error
        if not isinstance(found.signed, kind):
            raise RepositoryDamagedError(path, f"not metadata of {kind.type}")
        return found

    def releases(self) -> Releases:
        """What was released. Raises RepositoryDamagedError."""
        path = self.directory / "releases.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Releases)
        except FileNotFoundError:
            return Releases()
        except OSError as error:
            raise FileAccessError(path, error.strerror or str(error)) from error
        except UNDECODABLE as error:
            raise RepositoryDamagedError(path, str(error)) from error

    def commit(self, releases: Releases) -> None:
        """Put releases in force: sign the live ones' targets, then say so. Under the lock."""
        self.sign_online(releases.live())
        write_atomic(self.directory / "releases.json", msgspec.json.encode(releases), _MODE)
        self._sweep(releases)

    def keep_archive(self, sha256: str, content: bytes) -> None:
        """Put an archive where targets' content is. Under the lock."""
        path = self.archive(sha256)
        if not path.exists():
            write_atomic(path, content, _MODE)

    def archive(self, sha256: str) -> Path:
        """Where the archive of a digest is."""
        return self.archives / f"{sha256}.tar.gz"

    def refresh(self) -> list[str]:
        """Sign what is past half of its life, or does not match what was released. Under the lock.

        Returns:
            The roles that were signed; a root whose key is elsewhere is not among them.

        Raises:
            KeyMissingError: a role's key is not here.
        """
        signed = []
        root, now = self.root(), self._now()
        here = self.keys.present(ROOT, root.roles[ROOT].keyids)
        enough = len(here) >= root.roles[ROOT].threshold
        if plan.due(root, self._expiries.root, now) and enough:
            self.renew_root(())
            signed.append(ROOT)
        return signed + self.sign_online(self.releases().live(), only_due=True)

    def sign_online(self, releases: Sequence[Release], *, only_due: bool = False) -> list[str]:
        """Sign targets, snapshot and timestamp, each over the one before.

        Args:
            releases: whose parts are targets.
            only_due: leave alone what is good for half of its life and need not change.

        Returns:
            The roles that were signed.
        """
        root, now, expiries = self.root(), self._now(), self._expiries
        targets, snapshot, timestamp = self._chain() or (None, None, None)
        signed = []
        wanted = {part.target for release in releases for part in release.parts}
        if (
            targets is None
            or not only_due
            or set(targets.targets) != wanted
            or not self._lasts(root, targets, f"{targets.version}.targets.json", now)
        ):
            before = targets.version if targets else 0
            targets = plan.next_targets(before, releases, now, expiries.targets)
            self._sign(root, targets, f"{targets.version}.targets.json")
            signed.append("targets")
        if (
            snapshot is None
            or signed
            or not self._lasts(root, snapshot, f"{snapshot.version}.snapshot.json", now)
        ):
            before = snapshot.version if snapshot else 0
            snapshot = plan.next_snapshot(before, targets.version, now, expiries.snapshot)
            self._sign(root, snapshot, f"{snapshot.version}.snapshot.json")
            signed.append("snapshot")
        if timestamp is None or signed or not self._lasts(root, timestamp, TIMESTAMP_FILE, now):
            before = timestamp.version if timestamp else 0
            timestamp = plan.next_timestamp(before, snapshot.version, now, expiries.timestamp)
            self._sign(root, timestamp, TIMESTAMP_FILE)
            signed.append("timestamp")
        return signed

    def _lasts(self, root: Root, signed: _Signed, name: str, now: datetime) -> bool:
        """Whether metadata are good for a while, and signed by a key that the root still names.

        After a rotation, interrupted or not, what the old key signed is good for nobody.
        """
        found = self._read(self.metadata / name, type(signed))
        try:
            root.verify_delegate(signed.type, found.signed_bytes, found.signatures)
        except RepositoryError:
            return False
        return not plan.due(signed, self._expiries.of(signed.type), now)

    def _sign(self, root: Root, signed: _Signed, name: str) -> None:
        role = root.roles[signed.type]
        made: Metadata[_Signed] = Metadata(signed)
        for signer in self.keys.signers(signed.type, role.keyids, role.threshold):
            made.sign(signer, append=True)
        root.verify_delegate(signed.type, made.signed_bytes, made.signatures)
        write_atomic(self.metadata / name, made.to_bytes(), _MODE)

    def renew_root(self, signers: Sequence[CryptoSigner]) -> Root:
        """The same root for longer. Under the lock.

        Args:
            signers: exported root keys; those that are here are used beside them.

        Raises:
            KeyMissingError: they are fewer than the threshold.
        """
        before = self.root()
        root = plan.next_root(before, self._now(), self._expiries.root)
        self.write_root(root, self._root_signers(before, signers), before=before)
        return root

    def rotate(self, role: str, signers: Sequence[CryptoSigner]) -> Root:
        """Give a role new keys, as many as it had.

        The old ones are worth nothing to whoever has them, as soon as a host has seen the new root.
        Under the lock.

        Args:
            role: any.
            signers: see :meth:`renew_root`.
        """
        before = self.root()
        old = self._root_signers(before, signers)
        new = [new_signer() for _ in before.roles[role].keyids]
        root = plan.next_root(before, self._now(), self._expiries.root)
        plan.replace_keys(root, role, [one.public_key for one in new])
        for signer in new:
            self.keys.keep(role, signer)
        self.write_root(root, [*old, *new] if role == ROOT else old, before=before)
        if role != ROOT:
            self.sign_online(self.releases().live())
        self.keys.forget(role, root.roles[role].keyids)
        return root

    def _root_signers(self, root: Root, given: Sequence[CryptoSigner]) -> list[CryptoSigner]:
        role = root.roles[ROOT]
        ours = [signer for signer in given if signer.public_key.keyid in role.keyids]
        known = {signer.public_key.keyid for signer in ours}
        missing = [keyid for keyid in role.keyids if keyid not in known]
        needed = max(0, role.threshold - len(ours))
        return ours + (self.keys.signers(ROOT, missing, needed) if needed else [])

    def write_root(self, root: Root, signers: Sequence[CryptoSigner], *, before: Root) -> None:
        """Sign a root and put it in force, if both it and the one before accept it."""
        made = Metadata(root)
        for signer in signers:
            made.sign(signer, append=True)
        for verifier in (before, root):
            verifier.verify_delegate(ROOT, made.signed_bytes, made.signatures)
        write_atomic(self.metadata / f"{root.version}.root.json", made.to_bytes(), _MODE)

    def _sweep(self, releases: Releases) -> None:
        """Remove archives that nobody can be sent for, and metadata that nobody reads any more."""
        kept = {part.sha256 for release in releases.history for part in release.parts}
        for path in self.archives.glob("*.tar.gz"):
            if path.name.partition(".")[0] not in kept:
                path.unlink()
        for role in ("targets", "snapshot"):
            files = sorted(self.metadata.glob(f"*.{role}.json"), key=_version)
            for path in files[:-_KEPT_METADATA]:
                path.unlink()

    def _now(self) -> datetime:
        return plan.whole_seconds(self._clock())


def _version(path: Path) -> int:
    text = path.name.partition(".")[0]
    return int(text) if text.isdigit() else -1


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=_version, default=None)
