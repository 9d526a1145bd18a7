"""What a person pastes on a host so that it trusts the repository, for each distribution. Pure."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Final

from sib_packaging.repository.apt import COMPONENT, SUITE

_KEY_FILE: Final = "/etc/pki/rpm-gpg/RPM-GPG-KEY-sib"
_THEN: Final = {
    "apt": "apt-get update\napt-get install {package}\n",
    "dnf": "dnf install {package}\n",
}


@dataclass(frozen=True, slots=True)
class Published:
    """Where a repository is found, and what vouches for it.

    Attributes:
        url: https://..., http://... or file:///..., without a slash at its end.
        fingerprint: of the key.
        key: the public key, armored.
    """

    url: str
    fingerprint: str
    key: str


def sources(published: Published) -> str:
    """sib.sources, deb822, with the key in it: nothing else has to be fetched or trusted."""
    key = "".join(f" {line or '.'}\n" for line in published.key.strip().splitlines())
    return (
        "Types: deb\n"
        f"URIs: {published.url}/deb\n"
        f"Suites: {SUITE}\n"
        f"Components: {COMPONENT}\n"
        f"Signed-By:\n{key}"
    )


def repo(published: Published) -> str:
    """sib.repo for dnf: packages and metadata both have to be signed."""
    return (
        "[sib]\n"
        "name=SIEM in a Box\n"
        f"baseurl={published.url}/rpm/$basearch\n"
        "enabled=1\n"
        "gpgcheck=1\n"
        "repo_gpgcheck=1\n"
        f"gpgkey=file://{_KEY_FILE}\n"
    )


def apt_commands(published: Published, package: str) -> str:
    """For Debian and Ubuntu, run by root."""
    return f"cat >/etc/apt/sources.list.d/sib.sources <<'END'\n{sources(published)}END\n" + _THEN[
        "apt"
    ].format(package=package)


def dnf_commands(published: Published, package: str) -> str:
    """For EL and Fedora, run by root. The key is given to rpm here, so dnf asks nothing."""
    return (
        f"cat >{_KEY_FILE} <<'END'\n{published.key.strip()}\nEND\n"
        f"rpm --import {_KEY_FILE}\n"
        f"cat >/etc/yum.repos.d/sib.repo <<'END'\n{repo(published)}END\n"
        + _THEN["dnf"].format(package=package)
    )


_CHAPTERS: Final = (
    ("Debian 12 and 13, Ubuntu 24.04", "apt", apt_commands),
    ("EL 9 and 10, Fedora", "dnf", dnf_commands),
)


def page(published: Published) -> str:
    """README.html: every distribution's commands, to be read without a network."""
    parts = [
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        "<title>SIEM in a Box: packages</title>\n"
        "<style>body{max-width:50em;margin:2em auto;font:16px/1.5 sans-serif}"
        "pre{background:#eee;padding:1em;overflow:auto}</style>\n"
        "<h1>SIEM in a Box: packages</h1>\n"
        f"<p>Everything here is signed by the key <code>{_spaced(published.fingerprint)}</code>."
        " Compare that with what the publisher told you by another way, then paste as root.</p>\n"
    ]
    for title, _, commands in _CHAPTERS:
        parts.append(f"<h2>{title}</h2>\n")
        for what, package in (("The server", "sib-server"), ("Each host", "sib-agent")):
            text = html.escape(commands(published, package), quote=False)
            parts.append(f"<h3>{what}</h3>\n<pre>{text}</pre>\n")
    parts.append(
        "<h2>From a stick, without a network</h2>\n<p>Carry this folder to the host, and put where"
        " it is mounted in place of the address: <code>file:///media/stick</code> for"
        f" <code>{html.escape(published.url)}</code>.</p>\n</html>\n"
    )
    return "".join(parts)


def _spaced(fingerprint: str) -> str:
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))
