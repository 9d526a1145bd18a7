"""How long ``sib-server sigma convert`` takes, from the command's start to its end."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def one_run(rules: Path, bytecode: str) -> tuple[float, float, int]:
    """Seconds of wall clock, seconds of CPU, and how many rules there were."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sib_server", "sigma", "convert", str(rules), "--json"],
        env=kept | {"PYTHONPYCACHEPREFIX": bytecode},
        capture_output=True, check=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    passed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return passed, spent, len(done.stdout.splitlines())


def run(rules: Path, rounds: int) -> dict[str, Any]:
    """Rounds with bytecode in place, as packages bring it; and a first one that compiles it."""
    with tempfile.TemporaryDirectory() as bytecode:
        first, *others = [one_run(rules, bytecode) for _ in range(rounds + 1)]
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "rules": first[2],
        "first_s": round(first[0], 2),
        "wall_s": [round(wall, 2) for wall, _, _ in others],
        "wall_median_s": round(statistics.median(wall for wall, _, _ in others), 2),
        "cpu_median_s": round(statistics.median(cpu for _, cpu, _ in others), 2),
    }
