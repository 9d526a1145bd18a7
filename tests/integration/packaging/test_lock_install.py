"""What a fresh machine is given is what was wanted, whatever was published or taken away since."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def wheel(folder: Path, name: str, version: str, *metadata: str) -> str:
    """Write a wheel that holds nothing but its metadata, and give its line of a lock."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{about}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", f"{about}/METADATA,,\n{about}/WHEEL,,\n")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


def install(environment: Path, lock: Path, index: Path) -> subprocess.CompletedProcess[str]:
    script = '. "$1"; install_lock "$2" "$3"; need_whole "$2"'
    return subprocess.run(
        ["bash", "-euc", script, "bash", ROOT / "scripts/lib/environment.sh", environment, lock],
        check=False,
        env=os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    return folder


def test_a_newer_release_of_a_package_with_an_extra_changes_nothing(
    environment: Path, tmp_path: Path
) -> None:
    lock = tmp_path / "lock.txt"
    # As `uv pip compile` writes it: without the extra that the user of the package wants.
    lock.write_text(
        wheel(tmp_path, "part", "1.0", "Provides-Extra: more")
        + wheel(tmp_path, "whole", "1.0", "Requires-Dist: part[more]>=1.0")
    )
    wheel(tmp_path, "part", "1.1", "Provides-Extra: more")
    done = install(environment, lock, tmp_path)
    assert done.returncode == 0, done.stderr
    frozen: list[str | Path] = [environment / "bin/pip", "freeze"]
    assert "part==1.0\n" in subprocess.check_output(frozen, text=True, timeout=60)


def test_a_lock_that_lacks_something_is_refused(environment: Path, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(wheel(tmp_path, "lonely", "1.0", "Requires-Dist: company"))
    done = install(environment, lock, tmp_path)
    assert done.returncode != 0
    assert "lonely 1.0 requires company" in done.stderr


APT = """#!/bin/sh
# Like apt-get: all or nothing, and nothing where a name is unknown.
while [ "$1" != install ]; do [ $# -gt 0 ] || exit 0; shift; done
shift
for name in "$@"; do case $name in -*) ;; gone) exit 100 ;; esac; done
for name in "$@"; do case $name in -*) ;; *) touch "$STATE/$name" ;; esac; done
"""
DPKG = """#!/bin/sh
for name in "$@"; do :; done
[ -e "$STATE/$name" ] && echo "install ok installed"
"""


def test_a_package_that_debian_has_no_more_does_not_cost_the_others(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for name, text in (("apt-get", APT), ("dpkg-query", DPKG), ("sudo", '#!/bin/sh\nexec "$@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = '. "$1"; want_packages one gone two; if need_packages gone; then exit 3; fi'
    done = subprocess.run(
        ["bash", "-euc", script, "bash", ROOT / "scripts/lib/environment.sh"],
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in state.iterdir()) == ["one", "two"]
    assert "without gone the tests" in done.stderr
