from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[3] / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
OURS = {
    "sib-server.service",
    "sib-server-disk-guard.service",
    "sib-server-hunt.service",
    "sib-server-intel.service",
    "sib-agent.service",
    "sib-agent-setup.service",
    "sib-falco-reload.service",
}
FALCO = "sib-falco.service"
# Root, for it gives files to several users' groups, and does a part as the server's user.
SETUP = {"sib-server-setup.service", "sib-server-renew.service"}


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze not found: install systemd")
    return found


def limit(name: str) -> float:
    if name in OURS:
        return 1.5
    if name in SETUP:
        return 1.9
    return 2.5


def test_there_are_units_to_look_at() -> None:
    assert {path.name for path in SERVICES} >= {*OURS, *SETUP, FALCO, "sib-loki.service"}


def test_systemd_has_nothing_to_say_about_any_unit(analyze: str, tmp_path: Path) -> None:
    for path in SYSTEMD.glob("*sib-*.*"):
        # Our programs are not installed where the tests run; everything else stays as it is.
        text = re.sub(r"(?m)^(Exec\w+=)/usr/(?:bin|lib)/sib-\S+", r"\1/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    units = sorted(path for path in tmp_path.iterdir() if path.is_file())
    done = subprocess.run(
        [analyze, "verify", "--man=no", *map(str, units)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_exposure_is_under_its_limit(analyze: str, path: Path) -> None:
    done = subprocess.run(
        [
            *(analyze, "security", "--offline=true", "--no-pager"),
            *(f"--threshold={round(limit(path.name) * 10)}", str(path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_falco_has_only_what_loading_its_probe_needs() -> None:
    text = (SYSTEMD / FALCO).read_text()
    bounds = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", text)
    assert [set(line.split()) for line in bounds] == [
        {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE"}
    ]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_stopping_a_target_stops_every_unit(path: Path) -> None:
    text = path.read_text()
    target = re.findall(r"(?m)^PartOf=(\S+)$", text)
    assert target in (["sib-server.target"], ["sib-agent.target"])
    if "Type=oneshot" not in text:
        assert f"WantedBy={target[0]}" in text


@pytest.mark.parametrize(("side", "megabytes"), [("server", 4096), ("agent", 512)])
def test_memory_limits_fit_the_machines(side: str, megabytes: int) -> None:
    slice_ = f"system-sib-{side}.slice"
    bounds = [_memory(SYSTEMD / slice_)]
    for path in SERVICES:
        text = path.read_text()
        if f"PartOf=sib-{side}.target" in text:
            assert re.findall(r"(?m)^Slice=(.*)$", text) == [slice_]
            bounds.append(_memory(path))
            # What stays for good has a bound of its own, or one of them could take what all have.
            assert bounds[-1] or "Type=oneshot" in text
    assert bounds[0] == megabytes
    assert max(bounds[1:]) < megabytes / 2


def _memory(path: Path) -> int:
    found = re.search(r"(?m)^MemoryMax=(\d+)([MG])$", path.read_text())
    return int(found[1]) * (1024 if found[2] == "G" else 1) if found else 0
