"""What one check of a condition costs Falco: the figures behind the compiler's estimates.

Records some seconds of a load, and replays the record with many rules that ask only this check,
and with none. What a replay takes, less what Falco takes to load the rules, by rule and event, is
the cost of asking a rule whose first check is this one. Needs root, and quiet.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sib_protocol.drills.engine import falco_settings, falco_version
from tests.bench.load import machine
from tests.bench.rules import mixed
from tests.support.engine import RecordingFalco

RULES = 60
STARTED = "evt.type in (execve, execveat)"
OPENED = "evt.type in (open, openat, openat2)"
DELETED = "evt.type in (unlink, unlinkat)"
CHECKS: dict[str, tuple[str, ...]] = {
    STARTED: (
        "proc.name = never", "proc.name in (never, ever)", "proc.name startswith never",
        "proc.args contains never", 'proc.args regex ".*never[0-9]{3}.*"', "proc.pname = never",
        "proc.aname in (never, ever)", "proc.env[NEVER] = x", "proc.tty = 4242", "user.uid = 4242",
        "user.name = never", "evt.res = NEVER", "evt.rawres > 5", "evt.num = 0",
        "thread.cap_effective contains NEVER", "(proc.name = never and proc.pid = 1)",
        "(proc.name = never or proc.name = ever)",
        "(proc.name = a1 or proc.name = a2 or proc.name = a3 or proc.name = a4)",
    ),
    OPENED: (
        "proc.name = never", "fd.num < -5", "fd.typechar = z", "fd.name = /never",
        "fd.name in (/never, /ever)", "fd.name startswith /never", "fd.name contains /never",
        "fd.name glob /never*", "fd.name pmatch (/never, /ever)", "fd.filename = never",
        "fd.directory = /never", "fd.nameraw contains never", "evt.arg.name startswith /never",
        "evt.is_open_write = true and proc.name = never",
        "evt.is_open_read = true and proc.name = never",
        "evt.type in (open, openat, openat2) and proc.name = never",
    ),
    DELETED: ("proc.name = never", "fs.path.name = /never", "fs.path.name startswith /never"),
}  # fmt: skip
"""By the events that are asked; none of them holds for any."""


def run(seconds: float, rounds: int) -> dict[str, Any]:
    """Measure.

    Args:
        seconds: of the load that is recorded.
        rounds: of replays, the fastest of which counts.
    """
    program = Path(os.environ.get("SIB_COMPONENTS", "/none")) / "falco" / "falco"
    if os.geteuid() != 0 or not program.is_file():
        return {"skipped": "needs root, and a Falco (SIB_COMPONENTS)"}
    found: dict[str, Any] = {"machine": machine(), "falco": falco_version(program)}
    with tempfile.TemporaryDirectory(prefix="sib-bench-") as name:
        folder = Path(name)
        wanted = folder / "wanted.yaml"
        # So that the record has all that is asked for.
        wanted.write_text(rules(f"({' or '.join(CHECKS)}) and evt.num = 0", 1))
        with RecordingFalco(program, [wanted], folder) as falco:
            mixed(seconds, folder)
            falco.settle()
        (recorded,) = folder.glob("recorded*.scap")
        replay = Replay(program, recorded, folder, rounds)
        nothing = replay.seconds("evt.type = execve and evt.num = 0", 1)
        for events, asked in CHECKS.items():
            count = replay.count(events)
            found[events] = {"events": count, "ns": {}}
            for check in asked:
                spent = replay.seconds(f"{check} and {events}", RULES) - nothing
                found[events]["ns"][check] = round(1e9 * spent / RULES / count)
                print(f"{events}: {check}: {found[events]['ns'][check]} ns", file=sys.stderr)
    return found


def rules(condition: str, count: int) -> str:
    """A rules file with one condition under several names."""
    return json.dumps(
        [
            {
                "rule": f"r{number}",
                "desc": "a check",
                "condition": condition,
                "output": "x",
                "priority": "ERROR",
            }
            for number in range(count)
        ]
    )


class Replay:
    """Replays of one record."""

    def __init__(self, program: Path, recorded: Path, folder: Path, rounds: int) -> None:
        self._program = program
        self._rules = folder / "asked.yaml"
        self._config = folder / "replay.yaml"
        self._rounds = rounds
        engine = {"kind": "replay", "replay": {"capture_file": str(recorded)}}
        self._config.write_text(json.dumps({**falco_settings(), "engine": engine}))

    def seconds(self, condition: str, count: int) -> float:
        """CPU to judge the record by a condition in so many rules, without loading them."""
        self._rules.write_text(rules(condition, count))
        whole = min(self._cpu() for _ in range(self._rounds))
        return whole - min(self._cpu("--dry-run") for _ in range(self._rounds))

    def count(self, condition: str) -> int:
        """For how many events of the record a condition holds."""
        self._rules.write_text(rules(condition, 1))
        return self._run().stdout.count(b'"rule":"r0"')

    def _cpu(self, *more: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._run(*more)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def _run(self, *more: str) -> subprocess.CompletedProcess[bytes]:
        words: Sequence[str | Path] = (
            self._program, "-c", self._config, "-r", self._rules, *more,
        )  # fmt: skip
        return subprocess.run(words, capture_output=True, timeout=300, check=True)
