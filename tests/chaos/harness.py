"""One run: everything started, faults made, everything healed, and what was lost counted."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sib_server.events.reader import JournalReader
from sib_server.events.stored import Seq
from tests.bench.events import make_loki, metrics
from tests.bench.load import machine
from tests.chaos.faults import Faults
from tests.chaos.kept import Kept
from tests.chaos.receiver import Receiver
from tests.chaos.schedule import (
    AGENT,
    FALCOSIDEKICK,
    LOKI,
    SERVER,
    TO_FALCOSIDEKICK,
    TO_LOKI,
    TO_SERVER,
    Fault,
    make_schedule,
)
from tests.chaos.verdict import Violations, judge, number_in
from tests.chaos.writer import Writer, wait_until
from tests.support.components import (
    FakeFalcosidekickProgram,
    Falcosidekick,
    RealFalcosidekick,
    get,
)
from tests.support.lab import Agent, Server
from tests.support.proxy import Proxy

HOST = "web-1"
_SELECTOR = f'{{host="{HOST}"}}'
_PAGE = 1000
_STILL_ASKED = 200


@dataclass(frozen=True)
class Options:
    """What a run is made of; ``settle`` is how long it may take after the last fault."""

    directory: Path
    faults: int = 500
    seed: int = 0
    pace: float = 1.2
    rate: float = 120.0
    real: bool = False
    settle: float = 300.0
    volumes: tuple[int, int] = (96, 1024)
    """MiB for the spool's and the journal's own file system."""


def find_faketime() -> Path | None:
    """Debian's library that shows a process another time."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """One run; see :class:`tests.chaos.faults.Scene` for what the attributes are."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stack = ExitStack()
        self.kept: dict[str, Kept] = {}
        self.proxies: dict[str, Proxy] = {}
        self.volumes: dict[str, Path] = {}
        self.faketime = find_faketime()
        self.host_name = HOST

    def run(self) -> dict[str, Any]:
        """All of it; the result as printed."""
        with self._stack:
            started = time.monotonic()
            self._set_up()
            faults = Faults(self, self._options.seed)
            schedule = make_schedule(self._options.seed, self._options.faults, self._options.pace)
            self.writer.start()
            self._do(faults, schedule)
            faults.heal()
            self.writer.stop()
            writing = time.monotonic() - started
            say(f"healed; {len(self.writer.written)} events written; waiting for the rest")
            violations, sinks = self._settle()
            settled = time.monotonic() - started - writing
            result = self._result(faults, violations, sinks, writing, settled)
            if violations:
                self._keep_evidence(violations)
            return result

    def taken(self) -> int:
        """See Scene: what the agent says it has in its spool, or the server of it."""
        known = [0]
        with suppress(OSError, ValueError, KeyError):
            status = json.loads(self._agent.status_file.read_bytes())
            known.append(int(status["report"]["spool"]["next"]))
        with suppress(sqlite3.Error):
            path = urllib.parse.quote(str(self._server.journal_path))
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as journal:
                known += [row[0] for row in journal.execute("SELECT next FROM streams")]
        return max(known)

    # Starting.

    def _set_up(self) -> None:
        options, stack = self._options, self._stack
        directory = options.directory
        directory.mkdir(parents=True, exist_ok=True)
        for name, size in zip(("spool", "journal"), options.volumes, strict=True):
            self._mount(name, directory / f"{name}-volume", size)
        self.receiver = Receiver(directory / "webhook.log")
        stack.callback(self.receiver.close)
        self._loki = make_loki(directory / "loki", real=options.real)
        if options.real:
            _widen(directory / "loki" / "loki.yaml")
        make = RealFalcosidekick if options.real else FakeFalcosidekickProgram
        self._falcosidekick: Falcosidekick = make(directory / "falcosidekick", self.receiver.url)
        self._way(TO_LOKI, self._loki.port)
        self._way(TO_FALCOSIDEKICK, self._falcosidekick.port)
        self._make_server()
        self._keep(LOKI, self._loki.command(), directory / "loki" / "log")
        self._keep(
            FALCOSIDEKICK, self._falcosidekick.command(), directory / "falcosidekick" / "log"
        )
        self._keep(SERVER, self._server.arguments, self._server.log)
        for name, check in (("Loki", self._loki.is_up), ("sidekick", self._falcosidekick.is_up)):
            assert wait_until(partial(_answers, check), 60), f"{name} did not come up"
        assert wait_until(self._server_is_up, 60), self._server.tail()
        self._agent.enroll(self._server.token())
        self._keep(AGENT, self._agent.arguments, self._agent.log)
        assert wait_until(self._agent.status_file.exists, 60), self._agent.tail()

    def _make_server(self) -> None:
        directory = self._options.directory
        journal = self.volumes.get("journal", directory / "server" / "journal")
        spool = self.volumes.get("spool", directory / "agent" / "own")
        settings = {
            "journal": {"path": str(journal / "journal.db")},
            "sinks": {
                "loki": {
                    "enabled": True,
                    "url": self.proxies[TO_LOKI].url,
                    "timeout_seconds": 5.0,
                },
                "falcosidekick": {
                    "enabled": True,
                    "url": self.proxies[TO_FALCOSIDEKICK].url,
                    "timeout_seconds": 5.0,
                    "settle_timeout_seconds": 5.0,
                    "outputs": {"webhook": {}},
                },
            },
        }
        # The proxy must know the server's port, and the server's settings the proxy's.
        way = self._way(TO_SERVER, 0)
        self._server = Server(directory / "server", settings, public_port=way.port)
        way.target = self._server.port
        self._agent = Agent(
            directory / "agent",
            HOST,
            {
                "spool": {"directory": str(spool / "spool")},
                "events": {"rotate_bytes": 1024 * 1024},
                "uplink": {"timeout_seconds": 5.0, "longest_wait_seconds": 2.0},
            },
        )
        self.events_file = self._agent.events_file
        self.writer = Writer(self.events_file, rate=self._options.rate, seed=self._options.seed)

    def _way(self, name: str, target: int) -> Proxy:
        proxy = self.proxies[name] = Proxy(target)
        self._stack.callback(proxy.close)
        return proxy

    def _keep(self, name: str, command: list[str], log: Path) -> None:
        kept = self.kept[name] = Kept(name, command, log)
        self._stack.callback(kept.end)
        kept.start()

    def _mount(self, name: str, place: Path, size: int) -> None:
        place.mkdir(exist_ok=True)
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return
        options = f"size={size}m,mode=0700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, f"sib-{name}", str(place)],
            capture_output=True,
            check=False,
            timeout=30,
        )
        if done.returncode == 0:
            self.volumes[name] = place
            self._stack.callback(_unmount, place)

    def _server_is_up(self) -> bool:
        return _answers(
            lambda: get(f"http://127.0.0.1:{self._server.metrics_port}/healthz") == b"ok\n"
        )

    # The faults.

    def _do(self, faults: Faults, schedule: list[Fault]) -> None:
        start, said = time.monotonic(), 0.0
        log = (self._options.directory / "faults.log").open("a", buffering=1)
        threads = []
        with log:
            for fault in schedule:
                time.sleep(max(0.0, start + fault.at - time.monotonic()))
                log.write(f"{time.strftime('%H:%M:%S')} {fault}\n")
                thread = threading.Thread(target=faults.run, args=(fault,), daemon=True)
                thread.start()
                threads.append(thread)
                if time.monotonic() - said > 15:
                    said = time.monotonic()
                    say(f"{fault.at:6.0f} s  {fault}; {len(self.writer.written)} written")
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a fault did not end"

    # The reckoning.

    def _settle(self) -> tuple[Violations, dict[str, Counter[int]]]:
        end = time.monotonic() + self._options.settle
        while not self._looks_done() and time.monotonic() < end:
            time.sleep(1.0)
        # What comes twice may come late.
        time.sleep(2.0)
        while True:
            sinks = {LOKI: self._in_loki(), "webhook": self.receiver.seen.copy()}
            violations = judge(self.writer.written, self._journal_lines(), sinks)
            if not violations or time.monotonic() >= end:
                return violations, sinks
            time.sleep(5.0)

    def _looks_done(self) -> bool:
        if self.taken() < len(self.writer.written):
            return False
        try:
            found = metrics(self._server)
        except OSError:
            return False
        lags = [value for name, value in found.items() if "sink_lag_events" in name]
        return len(lags) == 2 and not any(lags)

    def _events(self) -> list[tuple[str, str, bytes]]:
        """The journal: (source, rule, line)."""
        found: list[tuple[str, str, bytes]] = []
        with JournalReader(self._server.journal_path) as reader:
            after = Seq(0)
            while events := reader.read(after, max_events=5000, max_bytes=64 * 1024 * 1024):
                found += [(item.summary.source, item.summary.rule, item.line) for item in events]
                after = events[-1].seq
        return found

    def _journal_lines(self) -> list[bytes]:
        return [line for source, _, line in self._events() if source != "sib"]

    def _in_loki(self) -> Counter[int]:
        seen: Counter[int] = Counter()
        try:
            for _, line, _ in self._loki.held(_SELECTOR, _PAGE):
                number = number_in(line.encode())
                if number is not None:
                    seen[number] += 1
            # Entries of one time that a page's end fell between are asked for by their number.
            for number in sorted(self.writer.written.keys() - seen.keys())[:_STILL_ASKED]:
                seen[number] += self._count_in_loki(number)
                if not seen[number]:
                    del seen[number]
        except OSError as error:
            say(f"Loki cannot be asked: {error}")
        return seen

    def _count_in_loki(self, number: int) -> int:
        if not self._loki.real:
            return 0
        selector = f'{_SELECTOR} |= `"lab.n":{number},`'
        return len(self._loki.held(selector, _PAGE))

    def _keep_evidence(self, violations: Violations) -> None:
        """Where each number still is; and copies of what is unmounted at the end."""
        directory = self._options.directory
        for name, volume in self.volumes.items():
            shutil.copytree(volume, directory / f"{name}-evidence", dirs_exist_ok=True)
        places = {
            "events files": [*self.events_file.parent.iterdir()],
            "spool": [*self.volumes.get("spool", self._agent.directory).rglob("*")],
        }
        held = {
            name: {number for path in paths if path.is_file() for number in _numbers_in(path)}
            for name, paths in places.items()
        }
        journal = {number_in(line) for line in self._journal_lines()}
        with (directory / "violations.jsonl").open("w") as file:
            for number in violations.numbers:
                found = {name: number in numbers for name, numbers in held.items()}
                found["journal"] = number in journal
                found["webhook"] = number in self.receiver.seen
                file.write(json.dumps({"number": number, "found_in": found}) + "\n")

    def _result(
        self,
        faults: Faults,
        violations: Violations,
        sinks: dict[str, Counter[int]],
        writing: float,
        settled: float,
    ) -> dict[str, Any]:
        options = self._options
        logs = {
            SERVER: self._server.log.read_text(errors="replace").splitlines(),
            AGENT: self._agent.log.read_text(errors="replace").splitlines(),
        }
        refused = [line for line in logs[SERVER] if "for good" in line]
        notes = Counter(rule for source, rule, _ in self._events() if source == "sib")
        broken = bool(violations) or bool(self.writer.failures)
        return {
            "verdict": "broken" if broken else "kept",
            "seed": options.seed,
            "machine": machine(),
            "loki": "real" if self._loki.real else "fake",
            "falcosidekick": "real" if self._falcosidekick.real else "fake",
            "faults": sum(faults.done.values()),
            "faults_by_kind": dict(sorted(faults.done.items())),
            "faults_passed_over": dict(sorted(faults.passed_over.items())),
            "events_written": len(self.writer.written),
            "events_in_journal": len(self._journal_lines()),
            "repeats": {
                name: sum(seen.values()) - len(seen.keys() & self.writer.written.keys())
                for name, seen in sinks.items()
            },
            "own_events_in_journal": dict(notes),
            "refused_by_sinks": {"count": len(refused), "first": refused[:20]},
            "violations": violations.as_json(),
            "where_they_are": "violations.jsonl in the directory" if violations else None,
            "writer_failures": self.writer.failures[:20],
            "processes": {
                name: {"starts": kept.starts, "killed": kept.killed, "ended": kept.ended}
                for name, kept in self.kept.items()
            },
            "tracebacks": {
                name: sum(line.startswith("Traceback") or "traceback=" in line for line in lines)
                for name, lines in logs.items()
            },
            "seconds": {"faults": round(writing, 1), "until_whole": round(settled, 1)},
            "directory": str(options.directory),
        }


def _numbers_in(path: Path) -> set[int]:
    return {int(found) for found in re.findall(rb'"lab\.n": ?(\d{1,15})[,}]', path.read_bytes())}


def _answers(up: Any) -> bool:
    try:
        return bool(up())
    except OSError:
        return False


def _widen(path: Path) -> None:
    """A page of long lines passes between Loki's own parts."""
    config = json.loads(path.read_text())
    config["server"] |= {
        "grpc_server_max_recv_msg_size": 128 * 1024 * 1024,
        "grpc_server_max_send_msg_size": 128 * 1024 * 1024,
    }
    path.write_text(json.dumps(config))


def _unmount(place: Path) -> None:
    for arguments in (["umount", str(place)], ["umount", "-l", str(place)]):
        done = subprocess.run(arguments, capture_output=True, check=False, timeout=30)
        if done.returncode == 0:
            return
        time.sleep(0.5)


def new_seed() -> int:
    return random.SystemRandom().randrange(10**9)
