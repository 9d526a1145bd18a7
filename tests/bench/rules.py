"""What SIB's rules cost: Falco's CPU with them beside the Falco project's own, and without them.

Falco is configured as `sib-agent setup` does it. The variants take turns under the same paced load,
and each round gives a ratio; the median is the figure, so that what else the machine does in one
round weighs little. Needs root, the container plugin, and quiet.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from sib_agent.settings import AgentSettings
from sib_agent.setup.falco_config import FalcoFiles, render_falco
from sib_protocol.drills.engine import Falco, falco_version
from sib_protocol.drills.marks import FIELD
from sib_server.detection.rules.testing import find_plugins
from tests.bench.load import cpu_seconds, machine, rss_mib
from tests.support.engine import rule_files

HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Debian's. A program is tried in each folder until it is found, and Falco sees each try."""

_STEP_S = 0.02
_LAG_S = 3.0
"""Falco writes its counters each second."""


class HostFalco(Falco):
    """Configured as on a host; its alerts also go where the marks are looked for."""

    def settings(self) -> dict[str, Any]:
        plugins = self._plugins
        library = plugins / "libcontainer.so" if plugins is not None else None
        found = FalcoFiles(program=True, stock_rules=None, container_plugin=library)
        tree: dict[str, Any] = yaml.safe_load(render_falco(AgentSettings(), found))
        del tree["rules_files"]
        tree["append_output"][0]["extra_fields"].append(FIELD)
        tree["file_output"]["filename"] = str(self.alerts_file.with_name("events.json"))
        tree["webserver"] = {"enabled": False}
        counters = {"interval": "1s", "output_file": str(self._counters)}
        return {**tree, "stdout_output": {"enabled": True}, "metrics": tree["metrics"] | counters}


def mixed(seconds: float, folder: Path) -> None:
    """A paced mix: 200 programs, 3,000 files read, 300 written and replaced, 200 connections a
    second."""
    files = list(Path("/usr/share/doc").glob("*/copyright"))[:500]
    shells = ("true", "ls / >/dev/null | cat", "id >/dev/null", "test -f /etc/passwd")
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server, ExitStack() as closing:
        stop = threading.Event()
        closing.callback(stop.set)
        threading.Thread(target=_answer, args=(server, stop), daemon=True).start()
        start = time.monotonic()
        for step in range(int(seconds / _STEP_S)):
            for turn in range(4):
                words = ["sh", "-c", shells[turn]] if step % 5 == 0 else ["true"]
                os.waitpid(os.posix_spawnp(words[0], words, os.environ), 0)
            for turn in range(60):
                files[(step * 60 + turn) % len(files)].read_bytes()
            for turn in range(6):
                (folder / f"new{turn}").write_text("x")
                (folder / f"new{turn}").replace(folder / f"old{turn}")
            for turn in range(6):
                (folder / f"old{turn}").unlink()
            for _ in range(4):
                socket.create_connection(server.getsockname()).close()
            time.sleep(max(0.0, start + (step + 1) * _STEP_S - time.monotonic()))


def _answer(server: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(OSError):
            server.accept()[0].close()


def build(_: float, folder: Path) -> None:
    """A fixed amount of compiling, archiving and searching."""
    for number in range(12):
        (folder / f"part{number}.c").write_text(
            f"#include <stdio.h>\n#include <stdlib.h>\nint f{number}(int x) {{ return x; }}\n"
        )
    script = (
        "for turn in 1 2 3; do for file in *.c; do cc -c $file -o $file.o; done; ar rc all.a *.o;"
        " tar -czf all.tgz *.c *.o; find /usr/share/doc -name 'c*' | sort | tail -1; rm -f *.o;"
        " done >/dev/null"
    )
    subprocess.run(["sh", "-c", script], cwd=folder, check=True)


LOADS: Mapping[str, Callable[[float, Path], None]] = {"mixed": mixed, "build": build}


def once(
    program: Path, rules: Sequence[Path], load: Callable[[float, Path], None], seconds: float
) -> dict[str, float]:
    """One round of one variant."""
    with tempfile.TemporaryDirectory(prefix="sib-bench-") as name:
        folder, work = Path(name, "falco"), Path(name, "work")
        folder.mkdir()
        work.mkdir()
        with HostFalco(program, rules, folder, find_plugins(program)) as falco:
            time.sleep(_LAG_S)
            cpu, events, began = (
                cpu_seconds(falco.pid),
                falco.count("scap.n_evts"),
                time.monotonic(),
            )
            load(seconds, work)
            falco.settle()
            time.sleep(_LAG_S)
            spent, passed = cpu_seconds(falco.pid) - cpu, time.monotonic() - began
            return {
                "cpu_s": round(spent, 2),
                "cpu_percent": round(100 * spent / passed, 1),
                "events": falco.count("scap.n_evts") - events,
                "lost": falco.lost(),
                "rss_mib": round(rss_mib(falco.pid)),
            }


def compare(
    program: Path,
    variants: Mapping[str, Sequence[Path]],
    base: str,
    *,
    load: str,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Variants in turns, each round in the other direction, against one of them."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for turn in range(rounds):
        names = list(variants)
        for name in names if turn % 2 == 0 else reversed(names):
            one = once(program, variants[name], LOADS[load], seconds)
            taken[name].append(one)
            print(f"{load} {turn + 1}/{rounds} {name}: {one}", file=sys.stderr)
    return {name: sum_up(taken[name], taken[base]) for name in variants}


def sum_up(mine: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of a variant's rounds, and of its ratios to the other's of the same round. Pure."""
    pairs = list(zip(mine, base, strict=True))
    cpu = [one["cpu_s"] / other["cpu_s"] for one, other in pairs]
    event = [
        (one["cpu_s"] / one["events"]) / (other["cpu_s"] / other["events"]) for one, other in pairs
    ]
    return {
        "cpu_percent": round(statistics.median(one["cpu_percent"] for one in mine), 1),
        "us_an_event": round(1e6 * statistics.median(o["cpu_s"] / o["events"] for o in mine), 2),
        "events": statistics.median(one["events"] for one in mine),
        "lost": max(one["lost"] for one in mine),
        "rss_mib": statistics.median(one["rss_mib"] for one in mine),
        "ratio_cpu": round(statistics.median(cpu), 3),
        "ratio_cpu_range": [round(min(cpu), 3), round(max(cpu), 3)],
        "ratio_an_event": round(statistics.median(event), 3),
        "ratio_an_event_range": [round(min(event), 3), round(max(event), 3)],
    }


def run(
    loads: Sequence[str], *, rounds: int, seconds: float, each: bool, path: str = HOST_PATH
) -> dict[str, Any]:
    """Measure.

    Args:
        loads: names of loads.
        rounds: of every variant.
        seconds: of each round's paced load.
        each: also every rules file of SIB's alone, which tells where the cost is.
        path: where the loads look for programs.
    """
    program = Path(os.environ.get("SIB_COMPONENTS", "/none")) / "falco" / "falco"
    stock = program.parent / "rules" / "falco_rules.yaml"
    if os.geteuid() != 0 or not stock.is_file() or find_plugins(program) is None:
        return {"skipped": "needs root, and a Falco with its rules and its plugin (SIB_COMPONENTS)"}
    ours = rule_files()
    variants: dict[str, list[Path]] = {"falco": [stock], "falco and sib": [stock, *ours]}
    if each:
        variants |= {f"falco and {path.stem}": [stock, ours[0], path] for path in ours[1:]}
    result: dict[str, Any] = {"machine": machine(), "falco": falco_version(program), "path": path}
    # The search for a program is by this process's own.
    os.environ["PATH"] = path
    for load in loads:
        result[load] = compare(
            program, variants, "falco", load=load, rounds=rounds, seconds=seconds
        )
    return result
