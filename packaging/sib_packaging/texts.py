"""What packages say of themselves, the same in all of them. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Final

MAINTAINER: Final = "SIB <sib@localhost>"
DESCRIPTION: Final = (
    "SIB watches a fleet of Linux hosts: Falco sees what happens in each host's\n"
    "kernel, and every one of its alerts is brought home over mutual TLS, exactly\n"
    "once, stored and searched."
)

_LICENCE: Final = re.compile(r"(?i)licen[cs]e|copying|notice|authors")


def is_licence(name: str) -> bool:
    """Whether a file of this name holds what has to go along with a program."""
    return _LICENCE.match(name) is not None


def copyright_text(package: str, version: str, licence: str, source: str) -> str:
    """What Debian's policy wants to be in every package.

    Args:
        package: its name.
        version: its version.
        licence: SPDX expression of what is in it.
        source: where its source is had, or '' where that is SIB's.
    """
    return (
        f"{package} {version}\nLicence: {licence}\n"
        + (f"Source: {source}\n" if source else "")
        + "Apache-2.0, under which SIB is, too, is in LICENSE (the same as"
        " /usr/share/common-licenses/Apache-2.0). Other licences of what is in the package are in"
        " licences/, and which of them is whose in sbom.cdx.json.\n"
    )


def changelog(package: str, version: str, epoch: int) -> bytes:
    """A Debian changelog of one entry: CHANGELOG.md is what people read."""
    date = format_datetime(datetime.fromtimestamp(epoch, tz=timezone.utc))
    return (
        f"{package} ({version}) stable; urgency=medium\n\n"
        "  * See CHANGELOG.md in SIB's sources.\n\n"
        f" -- {MAINTAINER}  {date}\n"
    ).encode()
