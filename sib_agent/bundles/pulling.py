"""Fetching a bundle and proving it: python-tuf's client over the connection to the server.

Only ever run in a process of its own (``sib-agent bundle-fetch``): TUF and cryptography would take
a third of the daemon's memory, for a second a week.

What is trusted is the root that was pinned when the host enrolled, and what it vouches for. The
server's TLS key is not: whoever holds it can keep new bundles away, until the timestamp expires and
that is told (:mod:`.freshness`), but cannot have the host take one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from sib_agent.client import (
    ServerBusyError,
    ServerClient,
    ServerRefusedError,
    ServerUnreachableError,
)
from sib_protocol.bundles.archive import LIMITS, ArchiveError, unpack
from sib_protocol.bundles.names import BASE, MAX_PARTS, parse_target_name
from sib_protocol.errors import ExitCode, MalformedMessageError, SibError
from sib_protocol.files import sync_directory
from sib_protocol.identity import IdentityStore, identity_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tuf.api.metadata import TargetFile

    from sib_agent.bundles.store import BundleStore

_METADATA: Final = "/v1/bundle/metadata/"
_TARGETS: Final = "/v1/bundle/targets/"
_SECONDS: Final = 120.0
_MOST_METADATA: Final = 1024 * 1024
_MOST_ROOTS: Final = 64


class UnprovenBundleError(SibError):
    """A bundle that TUF does not vouch for; another try may end otherwise."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, reason: str) -> None:
        super().__init__(f"the bundle is not proven: {reason}")
        self.reason = reason


class UnfitBundleError(SibError):
    """A bundle that is signed, and that no host can take."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, reason: str) -> None:
        super().__init__(f"the bundle cannot be used: {reason}")
        self.reason = reason


class ServerFetcher(FetcherInterface):
    """TUF's way to the server: the host's own client, with an end in time for all of it.

    Args:
        client: with the host's certificate.
        seconds: for everything together; an endless answer ends then, if not by its size.
    """

    def __init__(self, client: ServerClient, seconds: float = _SECONDS) -> None:
        self._client = client
        self._end = time.monotonic() + seconds

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._client.stream(url, self._end)
        except ServerRefusedError as error:
            raise DownloadHTTPError(error.problem, error.status) from error


def pinned_root(store: IdentityStore) -> bytes:
    """The root that was pinned at enrollment.

    Raises:
        UnprovenBundleError: there is none.
    """
    found = store.bundle_root()
    if found is None:
        raise UnprovenBundleError("this host has no root to prove it by until it renews")
    return found


def pull(
    identities: IdentityStore, bundles: BundleStore, version: int, targets: Sequence[str]
) -> dict[str, str]:
    """Fetch a bundle's parts, prove them, and put their files beside the others.

    Args:
        identities: the host's.
        bundles: where its directory is made.
        version: of the bundle.
        targets: names of its parts, as the server said; nothing is taken on its word.

    Returns:
        SHA-256 of each part, by the part's name.

    Raises:
        UnprovenBundleError: TUF does not vouch for it.
        UnfitBundleError: it is signed, and not a bundle.
        ServerUnreachableError, ServerBusyError: as they say.
    """
    names = _check_names(version, targets)
    with _proving(identities, bundles) as updater:
        parts = {names[info.path]: _download(updater, info) for info in _find(updater, names)}
    bundles.stage(version, _merge(version, parts))
    return {part: hashlib.sha256(packed).hexdigest() for part, packed in parts.items()}


def refresh(identities: IdentityStore, bundles: BundleStore) -> None:
    """Fetch and prove what is signed now, and no bundle.

    Raises:
        UnprovenBundleError: TUF does not vouch for it, or it is not fresh.
        ServerUnreachableError, ServerBusyError: as they say.
    """
    with _proving(identities, bundles) as updater:
        updater.refresh()


@contextmanager
def _proving(identities: IdentityStore, bundles: BundleStore) -> Iterator[Updater]:
    """TUF's client over what was proven before, and its errors as ours."""
    root = pinned_root(identities)
    place = bundles.trust(hashlib.sha256(root).hexdigest())
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = ServerClient(identities.load().servers, lambda: identity_context(identities))
    try:
        with tempfile.TemporaryDirectory(dir=bundles.state, prefix="staging-") as scratch:
            yield _updater(place, root, scratch, client)
    except DownloadError as error:
        raise _explain(error) from error
    except RepositoryError as error:
        raise UnprovenBundleError(str(error)) from error
    finally:
        client.close()
        _make_durable(place)


def _check_names(version: int, targets: Sequence[str]) -> dict[str, str]:
    """The parts by their targets' names."""
    try:
        found = {text: parse_target_name(text) for text in targets}
    except MalformedMessageError as error:
        raise UnprovenBundleError(error.problem) from error
    parts = {text: name.part for text, name in found.items()}
    if any(name.version != version for name in found.values()) or len(found) > MAX_PARTS:
        raise UnprovenBundleError(f"the server names parts that are not of bundle {version}")
    if BASE not in parts.values():
        raise UnprovenBundleError(f"the server leaves out the base of bundle {version}")
    return parts


def _updater(place: Path, root: bytes, scratch: str, client: ServerClient) -> Updater:
    return Updater(
        str(place),
        _METADATA,
        scratch,
        _TARGETS,
        fetcher=ServerFetcher(client),
        config=UpdaterConfig(
            max_root_rotations=_MOST_ROOTS,
            max_delegations=0,
            root_max_length=_MOST_METADATA,
            snapshot_max_length=_MOST_METADATA,
            targets_max_length=_MOST_METADATA,
        ),
        bootstrap=root,
    )


def _find(updater: Updater, names: dict[str, str]) -> list[TargetFile]:
    updater.refresh()
    found = []
    for text in names:
        info = updater.get_targetinfo(text)
        if info is None:
            raise UnprovenBundleError(f"{text} is not among the signed targets")
        if info.custom != {"version": parse_target_name(text).version}:
            raise UnprovenBundleError(f"{text} is signed for another version")
        if info.length > LIMITS.packed:
            raise UnfitBundleError(f"{text} is larger than {LIMITS.packed} bytes")
        found.append(info)
    return found


def _download(updater: Updater, info: TargetFile) -> bytes:
    return Path(updater.download_target(info)).read_bytes()


def _merge(version: int, parts: dict[str, bytes]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for part, packed in parts.items():
        try:
            found = unpack(packed)
        except ArchiveError as error:
            raise UnfitBundleError(f"{part} of bundle {version}: {error.reason}") from error
        both = sorted(files.keys() & found.keys())
        if both:
            raise UnfitBundleError(f"{both[0]} is in two parts of bundle {version}")
        files |= found
    if len(files) > LIMITS.files or sum(map(len, files.values())) > LIMITS.unpacked:
        raise UnfitBundleError(f"bundle {version} is larger than a host takes")
    return files


def _explain(error: DownloadError) -> SibError:
    """A download that failed because of the network, or because of what came."""
    cause = error.__cause__
    if isinstance(cause, (ServerUnreachableError, ServerBusyError)):
        return cause
    return UnprovenBundleError(str(error))


def _make_durable(place: Path) -> None:
    """What was seen must not be forgotten in a power failure: an older timestamp would be taken."""
    for path in place.glob("*.json"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_directory(place)
