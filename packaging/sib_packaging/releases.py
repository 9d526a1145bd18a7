"""What projects publish about their releases, read with suspicion. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sib_packaging.components import Archive, Component
from sib_packaging.errors import PackagingError

ARCHITECTURES: Final = ("amd64", "arm64")
_VERSION = re.compile(r"\d+(?:\.\d+){1,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUMS = re.compile(r"(?i)^(?:sha256sums(?:\.txt)?|.*checksums\.txt)$")
_GITHUB: Final = "https://github.com/"
# What is written into the lock cannot end a string there.
_NAME: Final = re.compile(r"[\w.+-]+", re.ASCII)
_GRAFANA_URL: Final = re.compile(r"https://dl\.grafana\.com/[\w./+-]+\.tar\.gz", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of a release.

    Attributes:
        name: its own.
        url: where it is fetched.
        sha256: as published, or None.
    """

    name: str
    url: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Release:
    """One release.

    Attributes:
        version: without a leading 'v'.
        assets: by name.
    """

    version: str
    assets: Mapping[str, Asset]

    def checksum_files(self) -> list[Asset]:
        """Its files that say the checksums of others."""
        return [asset for name, asset in sorted(self.assets.items()) if _SUMS.match(name)]


def github_release(body: bytes, repository: str) -> Release:
    """GitHub's answer about a release.

    Args:
        body: JSON.
        repository: owner/name; assets of another are not taken.

    Raises:
        PackagingError: it is no such answer.
    """
    content = _json(body, f"the release of {repository}")
    tag = content.get("tag_name")
    version = tag.removeprefix("v") if isinstance(tag, str) else ""
    if not _VERSION.fullmatch(version):
        raise PackagingError(f"{repository} names its release {tag!r}, which is no version")
    assets = {}
    for item in _list(content.get("assets")):
        name, url = item.get("name"), item.get("browser_download_url")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            continue
        if url != f"{_GITHUB}{repository}/releases/download/{tag}/{name}":
            continue
        assets[name] = Asset(name, url, _digest(item.get("digest")))
    return Release(version, assets)


def grafana_release(body: bytes) -> Release:
    """What Grafana's own interface says of its stable release.

    Raises:
        PackagingError: it is no such answer.
    """
    content = _json(body, "Grafana's release")
    version = content.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise PackagingError(f"Grafana names its release {version!r}, which is no version")
    assets = {}
    for item in _list(content.get("packages")):
        url, architecture = item.get("url"), item.get("arch")
        if item.get("os") != "linux" or architecture not in ARCHITECTURES:
            continue
        if not isinstance(url, str) or not _GRAFANA_URL.fullmatch(url):
            continue
        # The file's name has a number of the build that nobody can guess.
        assets[architecture] = Asset(architecture, url, _digest(f"sha256:{item.get('sha256')}"))
    return Release(version, assets)


def parse_sums(text: str) -> dict[str, str]:
    """A file of checksums as sha256sum writes it: name -> hex."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and _SHA256.fullmatch(words[0].lower()):
            found[words[1].removeprefix("*").rsplit("/", 1)[-1]] = words[0].lower()
    return found


def asset_name(component: Component, version: str, architecture: str) -> str | None:
    """What the archive of another version or architecture is called, by what the lock has."""
    for known, archive in component.archives.items():
        return archive.name.replace(component.version, version).replace(known, architecture)
    return None


def newer(one: str, other: str) -> bool:
    """Whether a version is above another."""
    return _numbers(one) > _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def archives(component: Component, release: Release, sums: Mapping[str, str]) -> dict[str, Archive]:
    """The archives whose checksums are published, by architecture.

    Args:
        component: as the lock has it.
        release: that is proposed.
        sums: what the release's checksum files say.

    Raises:
        PackagingError: two publications disagree.
    """
    found = {}
    for architecture in ARCHITECTURES:
        name = asset_name(component, release.version, architecture)
        asset = release.assets.get(architecture) or release.assets.get(name or "")
        if asset is None:
            continue
        listed = sums.get(asset.name)
        if asset.sha256 and listed and asset.sha256 != listed:
            raise PackagingError(
                f"{component.name} {release.version}: two checksums of {asset.name} are published:"
                f" {asset.sha256} and {listed}"
            )
        if sha256 := asset.sha256 or listed:
            found[architecture] = Archive(asset.url, sha256)
    return found


def rewrite(text: str, component: Component, version: str, new: Mapping[str, Archive]) -> str:
    """The lock with one component's version and archives replaced; all else stays as written."""
    start = text.index(f"[{component.name}]\n")
    following = re.compile(rf"(?m)^\[(?!{re.escape(component.name)}[.\]])").search(text, start + 1)
    end = following.start() if following else len(text)
    section = text[start:end].rstrip("\n")
    section = re.sub(r'(?m)^version = ".*"$', lambda _: f'version = "{version}"', section, count=1)
    for architecture, archive in new.items():
        head = f"[{component.name}.archives.{architecture}]\n"
        table = f'{head}url = "{archive.url}"\nsha256 = "{archive.sha256}"'
        if head in section:
            pattern = re.compile(re.escape(head) + r'url = ".*"\nsha256 = ".*"')
            section = pattern.sub(table.replace("\\", r"\\"), section)
        else:
            section += f"\n{table}"
    gap = "\n\n" if following else "\n"
    return text[:start] + section + gap + text[end:]


def _json(body: bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PackagingError(f"{what}: the answer is no JSON") from error
    if not isinstance(content, dict):
        raise PackagingError(f"{what}: the answer is no object")
    return content


def _list(found: object) -> list[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _digest(found: object) -> str | None:
    if not isinstance(found, str):
        return None
    kind, _, value = found.partition(":")
    return value if kind == "sha256" and _SHA256.fullmatch(value) else None
