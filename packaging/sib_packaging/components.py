"""The lock of the components: what is shipped, from where, with which checksum. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import tomllib

from sib_packaging.errors import PackagingError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Archive:
    """What is fetched for one architecture.

    Attributes:
        url: of the archive.
        sha256: its checksum, 64 hex digits.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Component:
    """One program that SIB ships.

    Attributes:
        name: without ``sib-``.
        version: the project's own.
        licence: SPDX expression.
        source: the project's address.
        description: one line.
        files: path in the archive ('*' for one unknown folder, ``{arch}`` replaced) -> path under
            /usr/lib/sib-NAME; a path that ends in '/' is a folder.
        archives: by Debian's name of the architecture; an absent one is not published or its
            checksum is not known.
    """

    name: str
    version: str
    licence: str
    source: str
    description: str
    files: dict[str, str]
    archives: dict[str, Archive]

    def archive(self, architecture: str) -> Archive:
        """The archive of an architecture.

        Raises:
            PackagingError: the lock has none.
        """
        try:
            return self.archives[architecture]
        except KeyError:
            raise PackagingError(
                f"components.lock has no checksum for {self.name} {self.version} on {architecture}:"
                " give its program with --components, or leave it out"
            ) from None


def parse_lock(text: str) -> dict[str, Component]:
    """Read components.lock.

    Raises:
        PackagingError: it is no valid lock.
    """
    try:
        content = tomllib.loads(text)
        return {name: _component(name, table) for name, table in content.items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise PackagingError(f"components.lock is no valid lock: {error!r}") from error


def _component(name: str, table: dict[str, Any]) -> Component:
    archives = {}
    for architecture, found in table["archives"].items():
        if not _SHA256.fullmatch(found["sha256"]):
            raise PackagingError(f"{name} on {architecture}: sha256 is not 64 hex digits")
        if not found["url"].startswith(("https://", "http://127.0.0.1:")):
            raise PackagingError(f"{name} on {architecture}: {found['url']} is no https URL")
        archives[architecture] = Archive(found["url"], found["sha256"])
    return Component(
        name=name,
        version=table["version"],
        licence=table["licence"],
        source=table["source"],
        description=table["description"],
        files=dict(table["files"]),
        archives=archives,
    )
