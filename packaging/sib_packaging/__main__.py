"""The command line of ``scripts/build-packages``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import tomllib

from sib_packaging.build import Build, build_component, build_python
from sib_packaging.components import parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.packages import AGENT, SERVER
from sib_packaging.trees import PYTHONS, find_pythons

_ROOT = Path(__file__).resolve().parents[2]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _epoch() -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        return int(given)
    done = subprocess.run(
        ["git", "-C", str(_ROOT), "log", "-1", "--format=%ct"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackagingError("this is no git checkout: set SOURCE_DATE_EPOCH")
    return int(done.stdout)


def main() -> int:
    """Build; returns the exit code."""
    python = {"server": SERVER, "agent": AGENT}
    lock = parse_lock((_ROOT / "packaging/components.lock").read_text())
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
    parser.add_argument("--output", type=Path, default=_ROOT / "dist")
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
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    failures = []
    try:
        build = Build(
            root=_ROOT,
            output=given.output,
            cache=given.cache,
            architecture=given.arch,
            package_format=given.format,
            version=version,
            epoch=_epoch(),
            components=given.components,
            say=_say,
        )
    except PackagingError as error:
        _say(f"error: {error}")
        return 1
    if (set(names) & set(python)) and (absent := sorted(set(PYTHONS) - set(find_pythons()))):
        _say(f"no bytecode for Python {', '.join(absent)}: not on this machine (starts slower)")
    for name in names:
        try:
            if name in python:
                build_python(build, python[name])
            else:
                build_component(build, lock[name])
        except PackagingError as error:
            failures.append(name)
            _say(f"error: sib-{name}: {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
