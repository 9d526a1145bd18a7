"""The Vagrantfile, as a real Vagrant reads it. No machine is started: that takes a hypervisor."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MACHINES = ["server", "web-1", "web-2", "web-3", "web-4"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the Vagrantfile needs of a checkout, with packages that nobody can install."""
    if shutil.which("vagrant") is None:
        pytest.skip("vagrant not found: install vagrant, vagrant-libvirt")
    shutil.copy(ROOT / "Vagrantfile", tmp_path)
    (tmp_path / "packaging/vm").mkdir(parents=True)
    shutil.copy(ROOT / "packaging/vm/provision.sh", tmp_path / "packaging/vm")
    (tmp_path / "dist").mkdir()
    for name in ("server", "agent", "loki"):
        for suffix in ("deb", "rpm"):
            for architecture in ("amd64", "arm64"):
                (tmp_path / f"dist/sib-{name}_1.0_{architecture}.{suffix}").touch()
    return tmp_path


def vagrant(checkout: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["vagrant", *arguments],
        cwd=checkout,
        env={
            **os.environ,
            "VAGRANT_HOME": str(checkout / "home"),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            **more,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_vagrant_takes_it_with_packages_and_without(checkout: Path) -> None:
    for dist in ("dist", "nowhere"):
        done = vagrant(checkout, "validate", SIB_DIST=dist)
        # What Ruby or a plugin complains of is not the Vagrantfile's.
        assert done.returncode == 0, done.stderr
        assert "validated successfully" in done.stdout
    # The check sees what is in the providers' and the machines' parts.
    text = (checkout / "Vagrantfile").read_text()
    for good, bad in (("settings.cpus", "settings.cpu_count"), ("provision.sh", "none.sh")):
        assert good in text
        (checkout / "Vagrantfile").write_text(text.replace(good, bad))
        assert vagrant(checkout, "validate").returncode != 0


def test_its_machines_are_those_of_the_guide(checkout: Path) -> None:
    done = vagrant(checkout, "status", "--machine-readable")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(",") for line in done.stdout.splitlines()]
    assert [line[1] for line in lines if line[2] == "state"] == MACHINES
    guide = (ROOT / "docs/testing-on-vms.md").read_text()
    for name in MACHINES:
        assert f"| {name} |" in guide


def test_without_packages_it_says_how_to_build_them(checkout: Path) -> None:
    for package in (checkout / "dist").glob("sib-agent_*.rpm"):
        package.unlink()
    done = vagrant(checkout, "up", "web-3")
    assert done.returncode != 0
    assert "has no sib-agent for web-3" in done.stderr + done.stdout
    assert "--format rpm agent" in done.stderr + done.stdout
