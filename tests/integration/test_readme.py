"""What the README says to type, typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(180)
README = Path(__file__).parents[2] / "README.md"
PROGRAMS = Path(sys.executable).parent
SERVER = f"{PROGRAMS}/sib-server --config server.yaml"
BEFORE = "set -e\ntrap 'kill $(jobs -p); wait' EXIT\n"
UNTIL = "until {}; do sleep 0.2; done\n"


def test_by_hand(tmp_path: Path) -> None:
    """Ports, places and the token differ, and what a person would wait for is waited for."""
    found = re.search(r"## By hand\n\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    typed = found[1]
    for said, meant in (
        *((port, str(free_port())) for port in ("8443", "9465", "9466")),
        (".venv/bin/", f"{PROGRAMS}/"),
        ("serve &\n", "serve &\n" + UNTIL.format(f"{SERVER} status")),
        ("--tag web\n", "--tag web >line\n"),
        ("echo 'sib1.…'", 'grep -o "sib1[^\']*" line'),
        ("run &\n", "run &\n" + UNTIL.format("[ -d trial/spool ]")),
        (
            "events search\n",
            f"events count\n{UNTIL.format(f'{SERVER} events search | grep Hello')}",
        ),
    ):
        assert said in typed
        typed = typed.replace(said, meant)
    done = subprocess.run(
        ["bash", "-c", BEFORE + typed],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Notice +Hello +somebody is here$", done.stdout, re.MULTILINE), done.stdout
