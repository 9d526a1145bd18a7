"""What SIB's rules cost: Falco's CPU with them beside the Falco project's own, and without them.

Falco is configured as `sib-agent setup` does it, in its unit's environment. A Falco for each
variant runs at the same time, so all see the same events and share what else the machine does:
rounds differ by a few hundredths. Needs root, the container plugin, and quiet.
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
from sib_protocol.drills.marks import FIELD, Mark, new_run
from sib_server.detection.rules.testing import find_plugins
from tests.bench.load import exact_cpu_seconds, machine, rss_mib
from tests.noise.__main__ import work
from tests.support.engine import ROOT, compiled_files, rule_files

HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Debian's. A program is tried in each folder until it is found, and Falco sees each try."""

UNIT = ROOT / "systemd" / "sib-falco.service"
_STEP_S = 0.02
_LAG_S = 3.0
"""Falco writes its counters each second."""


class HostFalco(Falco):
    """Configured as on a host; its alerts also go where the marks are looked for."""

    def environment(self) -> dict[str, str]:
        lines = UNIT.read_text().splitlines()
        told = [one.partition("=")[2] for one in lines if one.startswith("Environment=")]
        return {**os.environ, **dict(one.split("=", 1) for one in " ".join(told).split())}

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
        "for turn in 1 2 3 4 5 6 7 8; do for file in *.c; do cc -c $file -o $file.o; done;"
        " ar rc all.a *.o; tar -czf all.tgz *.c *.o;"
        " find /usr/share/doc -name 'c*' | sort | tail -1; rm -f *.o; done >/dev/null"
    )
    subprocess.run(["sh", "-c", script], cwd=folder, check=True)


def ordinary(seconds: float, _: Path) -> None:
    """What a busy host does all day: that of `scripts/noise`."""
    work(round(seconds), Mark(new_run(), 1))


LOADS: Mapping[str, Callable[[float, Path], None]] = {
    "ordinary": ordinary,
    "build": build,
    "mixed": mixed,
}


def once(
    program: Path,
    variants: Mapping[str, Sequence[Path]],
    load: Callable[[float, Path], None],
    seconds: float,
) -> dict[str, dict[str, float]]:
    """One round: a Falco for each variant, all at once, and so the same load for all."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="sib-bench-")))
        engines: dict[str, HostFalco] = {}
        for number, (name, files) in enumerate(variants.items()):
            place = folder / str(number)
            place.mkdir()
            engine = HostFalco(program, files, place, find_plugins(program))
            engines[name] = closing.enter_context(engine)
        (folder / "work").mkdir()
        time.sleep(_LAG_S)
        cpu = {name: exact_cpu_seconds(engine.pid) for name, engine in engines.items()}
        events = {name: engine.count("scap.n_evts") for name, engine in engines.items()}
        began = time.monotonic()
        load(seconds, folder / "work")
        for engine in engines.values():
            engine.settle()
        time.sleep(_LAG_S)
        passed = time.monotonic() - began
        found: dict[str, dict[str, float]] = {}
        for name, engine in engines.items():
            spent = exact_cpu_seconds(engine.pid) - cpu[name]
            found[name] = {
                "cpu_s": round(spent, 3),
                "cpu_percent": round(100 * spent / passed, 1),
                "events": engine.count("scap.n_evts") - events[name],
                "lost": engine.lost(),
                "rss_mib": round(rss_mib(engine.pid)),
            }
        return found


def compare(
    program: Path,
    variants: Mapping[str, Sequence[Path]],
    base: str,
    *,
    load: str,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Rounds of all variants, started in the other order each time, against one of them."""
    taken: list[dict[str, dict[str, float]]] = []
    for turn in range(rounds):
        names = list(variants) if turn % 2 == 0 else list(reversed(list(variants)))
        taken.append(once(program, {name: variants[name] for name in names}, LOADS[load], seconds))
        print(f"{load} {turn + 1}/{rounds}: {taken[-1]}", file=sys.stderr)
    before = [one[base] for one in taken]
    return {name: sum_up([one[name] for one in taken], before) for name in variants}


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
        each: also every rules file of SIB's alone, as written, which tells where the cost is.
        path: where the loads look for programs.
    """
    program = Path(os.environ.get("SIB_COMPONENTS", "/none")) / "falco" / "falco"
    stock = program.parent / "rules" / "falco_rules.yaml"
    if os.geteuid() != 0 or not stock.is_file() or find_plugins(program) is None:
        return {"skipped": "needs root, and a Falco with its rules and its plugin (SIB_COMPONENTS)"}
    with tempfile.TemporaryDirectory(prefix="sib-bench-") as name:
        written = rule_files()
        variants: list[dict[str, Sequence[Path]]] = [
            {
                "falco": [stock],
                "falco and sib": [stock, *compiled_files(Path(name), stock)],
                "falco and sib as written": [stock, *written],
            }
        ]
        if each:
            variants += [
                {"falco": [stock], f"falco and {one.stem}": [stock, written[0], one]}
                for one in written[1:]
            ]
        result: dict[str, Any] = {
            "machine": machine(),
            "falco": falco_version(program),
            "path": path,
        }
        # The search for a program is by this process's own.
        os.environ["PATH"] = path
        for load in loads:
            result[load] = {}
            for some in variants:
                result[load] |= compare(
                    program, some, "falco", load=load, rounds=rounds, seconds=seconds
                )
    return result
