"""A package's maintainer scripts: maintain.sh below a head that says which one it is. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

PHASES: Final = {
    "deb": ("preinst", "postinst", "prerm", "postrm"),
    "rpm": ("preinst", "posttrans", "prerm", "postrm"),
}


def maintainer_script(
    body: str,
    *,
    package: str,
    phase: str,
    package_format: str,
    units: Sequence[str],
    state: Sequence[str],
    root: str = "",
) -> str:
    """One script.

    Args:
        body: maintain.sh.
        package: its name.
        phase: one of PHASES.
        package_format: deb or rpm.
        units: enabled, started and restarted in this order.
        state: absolute directories that a purge removes.
        root: put before every path; for tests.
    """
    values = {
        "package": package,
        "phase": phase,
        "format": package_format,
        "units": " ".join(units),
        "state": " ".join(state),
        "root": root,
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    return f"#!/bin/sh\n{head}\n{body}"
