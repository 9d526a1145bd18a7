"""The command line of ``scripts/build-packages``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sib_packaging.build import Build, build_component, build_python
from sib_packaging.components import parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.packages import AGENT, SERVER
from sib_packaging.project import ROOT, epoch, say, version
from sib_packaging.trees import PYTHONS, find_pythons


def main() -> int:
    """Build; returns the exit code."""
    python = {"server": SERVER, "agent": AGENT}
    lock = parse_lock((ROOT / "packaging/components.lock").read_text())
    parser = argparse.ArgumentParser(
        prog="scripts/build-packages", description="Build SIB's packages into dist/."
    )
    parser.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    parser.add_argument("--format", choices=("deb", "rpm"), default="deb")
    parser.add_argument(
        "--components",
        type=Path,
        metavar="DIR",
        help="take DIR/NAME/NAME as a component's program, fetch nothing of it",
    )
    parser.add_argument("--version", help="of sib-server and sib-agent [default: pyproject.toml's]")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sib-packages",
    )
    parser.add_argument(
        "only", nargs="*", metavar="NAME", help=f"of {', '.join((*python, *lock))} [default: all]"
    )
    given = parser.parse_args()
    names = given.only or [*python, *lock]
    if strange := sorted(set(names) - {*python, *lock}):
        parser.error(f"there is no {', '.join(strange)}")
    failures = []
    try:
        build = Build(
            root=ROOT,
            output=given.output,
            cache=given.cache,
            architecture=given.arch,
            package_format=given.format,
            version=given.version or version(),
            epoch=epoch(),
            components=given.components,
            falco=lock.get("falco"),
            say=say,
        )
    except PackagingError as error:
        say(f"error: {error}")
        return 1
    if (set(names) & set(python)) and (absent := sorted(set(PYTHONS) - set(find_pythons()))):
        say(f"no bytecode for Python {', '.join(absent)}: not on this machine (starts slower)")
    for name in names:
        try:
            if name in python:
                build_python(build, python[name])
            else:
                build_component(build, lock[name])
        except PackagingError as error:
            failures.append(name)
            say(f"error: sib-{name}: {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
