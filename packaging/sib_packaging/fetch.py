"""Fetch an archive: resumed where it broke off, verified before anybody sees it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sib_packaging.errors import PackagingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sib_packaging.components import Archive

_CHUNK: Final = 256 * 1024
_LARGEST: Final = 2 * 1024**3


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Make a cache and keep other processes from filling it meanwhile: builds run side by side."""
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fetch(
    archive: Archive,
    cache: Path,
    progress: Callable[[int, int | None], None],
    *,
    tries: int = 5,
    pause: float = 2.0,
) -> Path:
    """Have an archive in the cache.

    Args:
        archive: what.
        cache: directory of verified archives.
        progress: told bytes here and bytes in all (None: not known).
        tries: how often a broken connection is resumed.
        pause: seconds between tries.

    Returns:
        The verified file.

    Raises:
        PackagingError: it cannot be had, or it is not what the lock says.
    """
    target = cache / f"{archive.sha256[:16]}-{archive.name}"
    with alone(cache):
        if not (target.is_file() and checksum(target) == archive.sha256):
            _fetch(archive, target, progress, tries, pause)
    return target


def _fetch(
    archive: Archive,
    target: Path,
    progress: Callable[[int, int | None], None],
    tries: int,
    pause: float,
) -> None:
    partial = target.with_name(target.name + ".part")
    reason = ""
    for number in range(tries):
        if number:
            time.sleep(pause)
        try:
            if _more(archive.url, partial, progress):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            with error:
                reason = f"HTTP {error.code}"
                if error.code == 416:
                    # The part is as long as the file or longer: the checksum tells.
                    break
                if error.code < 500:
                    raise PackagingError(f"{archive.url} cannot be fetched: {reason}") from error
        except OSError as error:
            reason = str(error)
    else:
        raise PackagingError(f"{archive.url} cannot be fetched: {reason}")
    found = checksum(partial)
    if found != archive.sha256:
        partial.unlink()
        raise PackagingError(
            f"{archive.url} is not what the lock says: SHA-256 {found}, not {archive.sha256}"
        )
    partial.replace(target)


def _more(url: str, partial: Path, progress: Callable[[int, int | None], None]) -> bool:
    """Append what is missing; whether that is all."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(  # noqa: S310  (the lock allows https alone)
        url, headers={"Range": f"bytes={have}-"} if have else {}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with partial.open("ab" if have else "wb") as opened:
            while chunk := answer.read(_CHUNK):
                opened.write(chunk)
                have += len(chunk)
                if have > _LARGEST:
                    raise PackagingError(f"{url} is larger than {_LARGEST} bytes")
                progress(have, total)
    return total is None or have >= total
