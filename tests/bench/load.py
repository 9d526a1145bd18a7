"""Load for benches: paced writers in processes of their own, and what the processes cost."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.lab import event_line

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mib": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def keep_still() -> None:
    """No garbage collection from here on: with thousands of hosts in one process it stands still
    for half a second, and then they all come to the server at once."""
    gc.collect()
    gc.freeze()
    gc.disable()


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def exact_cpu_seconds(pid: int) -> float:
    """The same to the nanosecond, without threads that have ended."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((one / "schedstat").read_text().split()[0]) for one in tasks) / 1e9


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass(frozen=True)
class Percentiles:
    p50: float
    p90: float
    p99: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return cls(cuts[49], cuts[89], cuts[98], max(values))

    def rounded(self) -> dict[str, float]:
        return {
            "p50": round(self.p50, 2),
            "p90": round(self.p90, 2),
            "p99": round(self.p99, 2),
            "max": round(self.worst, 2),
        }


def _write(
    files: list[str], rate: float, seconds: float, size: int, credit: Any, written: Any
) -> None:
    """Append events to files in turn, many a write, until time is up.

    ``credit`` is how many lines may have been written at most; the caller raises it as they are
    stored, so that the spool's quota never decides the result.
    """
    template = event_line(10**9, size=size)
    head, tail = template.split(b'"lab.n":1000000000', 1)
    burst = 50
    number = 0
    end = time.monotonic() + seconds
    start = time.monotonic()
    descriptors = [os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in files]
    for descriptor in descriptors:
        os.close(descriptor)
    turn = 0
    while time.monotonic() < end:
        due = int((time.monotonic() - start) * rate)
        if number >= due or number >= credit.value:
            time.sleep(0.001)
            continue
        chunk = b"".join(
            head + b'"lab.n":%d' % (number + step) + tail + b"\n" for step in range(burst)
        )
        # Opened for each write, as Falco does: the agent may have renamed the file.
        descriptor = os.open(
            files[turn % len(files)], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        os.write(descriptor, chunk)
        os.close(descriptor)
        turn += 1
        number += burst
        written.value = number


class Writer:
    """Appends numbered events to one or more events files at a rate."""

    def __init__(self, files: list[Path], *, rate: float, seconds: float, size: int = 700) -> None:
        context = multiprocessing.get_context("spawn")
        self.credit = context.Value("q", 0, lock=False)
        self._written = context.Value("q", 0, lock=False)
        self.process = context.Process(
            target=_write,
            args=([str(file) for file in files], rate, seconds, size, self.credit, self._written),
            daemon=True,
        )

    @property
    def written(self) -> int:
        return int(self._written.value)
