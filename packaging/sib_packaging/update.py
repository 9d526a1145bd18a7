"""The command line of ``scripts/update-components``: newer versions for the lock."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Final

from sib_packaging.components import Component, parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.project import ROOT, say
from sib_packaging.releases import (
    Release,
    archives,
    github_release,
    grafana_release,
    newer,
    parse_sums,
    rewrite,
)

_LARGEST: Final = 4 * 1024**2
_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Places:
    """Where releases are asked for; others in tests."""

    github: str = "https://api.github.com"
    grafana: str = "https://grafana.com"
    downloads: str = "https://github.com"


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to https alone, and never takes a token along to another host."""

    def redirect_request(  # noqa: PLR0917  (its signature)
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise PackagingError(f"{req.full_url} leads to {newurl}, which is no https address")
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if followed is not None:
            followed.remove_header("Authorization")
        return followed


def get(url: str, token: str | None = None) -> bytes:
    """A bounded answer over verified TLS.

    Raises:
        PackagingError: there is none.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "sib-update-components"})  # noqa: S310
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        opener = urllib.request.build_opener(_SafeRedirects)
        with opener.open(request, timeout=_SECONDS) as answer:
            body: bytes = answer.read(_LARGEST + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise PackagingError(f"{url}: HTTP {error.code}") from error
    except OSError as error:
        raise PackagingError(f"{url}: {error}") from error
    if len(body) > _LARGEST:
        raise PackagingError(f"{url}: the answer is larger than {_LARGEST} bytes")
    return body


def latest(component: Component, places: Places, token: str | None) -> Release:
    """The newest release, or the locked one where that is newer still.

    Raises:
        PackagingError: it cannot be learned.
    """
    if any(item.url.startswith("https://dl.grafana.com/") for item in component.archives.values()):
        return grafana_release(get(f"{places.grafana}/api/grafana/versions/stable"))
    repository = component.source.removeprefix("https://github.com/")
    base = f"{places.github}/repos/{repository}/releases"
    found = github_release(get(f"{base}/latest", token), repository)
    if not newer(component.version, found.version):
        return found
    # Projects mark a fix of an older branch as their latest, too.
    urls = "".join(item.url for item in component.archives.values())
    tag = component.version if f"/{component.version}/" in urls else f"v{component.version}"
    return github_release(get(f"{base}/tags/{tag}", token), repository)


def propose(text: str, component: Component, places: Places, token: str | None) -> tuple[str, str]:
    """What the lock would become for one component, and one line about it.

    Raises:
        PackagingError: it cannot be learned, or what is published contradicts the lock.
    """
    release = latest(component, places, token)
    if newer(component.version, release.version):
        return text, f"{component.version} is locked, newer than {release.version}"
    sums: dict[str, str] = {}
    for asset in release.checksum_files():
        url = asset.url.replace("https://github.com", places.downloads, 1)
        sums |= parse_sums(get(url).decode("utf-8", "replace"))
    found = archives(component, release, sums)
    if release.version == component.version:
        for architecture in sorted(found.keys() & component.archives.keys()):
            if found[architecture].sha256 != component.archives[architecture].sha256:
                raise PackagingError(
                    f"the published checksum of {release.version} for {architecture} is"
                    f" {found[architecture].sha256}, and the lock has another: find out why"
                )
        added = {name: item for name, item in found.items() if name not in component.archives}
        if not added:
            return text, f"{component.version} is the newest"
        said = f"{component.version} is the newest; checksum of {', '.join(added)} found"
        return rewrite(text, component, component.version, added), said
    if lacking := sorted(component.archives.keys() - found.keys()):
        return text, (
            f"{release.version} is out, but no checksum is published of its archive for"
            f" {', '.join(lacking)}: left at {component.version}"
        )
    said = f"{component.version} -> {release.version}"
    return rewrite(text, component, release.version, found), said


def main(places: Places | None = None) -> int:
    """Look, print a diff, write if told to; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/update-components",
        description="Propose newer versions for packaging/components.lock, as a diff, with the"
        " checksums that their projects publish. Nothing is fetched but release data.",
        epilog="GITHUB_TOKEN, if set, is used for GitHub's interface, which else answers 60 times"
        " an hour.",
    )
    parser.add_argument("--write", action="store_true", help="change the lock")
    parser.add_argument(
        "--lock",
        type=Path,
        default=ROOT / "packaging/components.lock",
        metavar="FILE",
        help="[default: packaging/components.lock]",
    )
    parser.add_argument("only", nargs="*", metavar="NAME", help="of the lock [default: all]")
    given = parser.parse_args()
    before = given.lock.read_text()
    try:
        lock = parse_lock(before)
    except PackagingError as error:
        say(f"error: {error}")
        return 1
    if strange := sorted(set(given.only) - set(lock)):
        parser.error(f"there is no {', '.join(strange)}")
    after, failed = before, False
    for name in given.only or lock:
        try:
            after, said = propose(
                after, lock[name], places or Places(), os.environ.get("GITHUB_TOKEN")
            )
        except PackagingError as error:
            failed = True
            said = f"error: {error}"
        say(f"{name}: {said}")
    sys.stdout.writelines(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            str(given.lock),
            f"{given.lock} (proposed)",
        )
    )
    parse_lock(after)
    if given.write and after != before:
        partial = given.lock.with_name(given.lock.name + ".part")
        partial.write_text(after)
        partial.replace(given.lock)
        say(f"{given.lock} is written: build and test before you commit it")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
