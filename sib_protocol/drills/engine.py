"""A Falco of our own, for as long as rules are tried: started with given rules, read, stopped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sib_protocol.drills.marks import FIELD, Mark, new_run, parse_alert
from sib_protocol.drills.model import Act
from sib_protocol.drills.sandbox import perform
from sib_protocol.errors import ExitCode, FileAccessError, SibError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from sib_protocol.drills.marks import Alert

READY_S: Final = 90.0
"""How long Falco may take to see the first act: loading its probe takes seconds."""

_LAST_S: Final = 60.0
_SETTLE_S: Final = 1.0
_AGAIN_S: Final = 5.0
_NICE: Final = -15
_STOP_S: Final = 30.0
_MARK_RULE: Final = "SIB drill mark"
_MARK_PROGRAM: Final = "sib-drill-mark"
_VERSION: Final = re.compile(r"Falco version:\s*(\S+)")
_MARK_RULES: Final = f"""\
- rule: {_MARK_RULE}
  desc: Says that Falco sees, and that it has seen everything before.
  condition: evt.type = execve and proc.name = {_MARK_PROGRAM}
  output: a mark
  priority: DEBUG
  source: syscall
"""


class FalcoError(SibError):
    """Falco did not do what was asked of it."""

    exit_code = ExitCode.FAILURE


def falco_settings(plugins: Path | None = None) -> dict[str, Any]:
    """What a Falco of our own is told: alerts as JSON on stdout, all rules that match, no drop.

    Args:
        plugins: a folder with ``libcontainer.so``, where there is one.
    """
    settings: dict[str, Any] = {
        "json_output": True,
        "json_include_output_property": True,
        "json_include_tags_property": True,
        "stdout_output": {"enabled": True},
        "syslog_output": {"enabled": False},
        "webserver": {"enabled": False},
        "rule_matching": "all",
        "log_syslog": False,
        "log_level": "warning",
        "priority": "debug",
        "watch_config_files": False,
        "buffered_outputs": False,
        "outputs_queue": {"capacity": 0},
        "append_output": [{"match": {"source": "syscall"}, "extra_fields": [FIELD]}],
        "engine": {"kind": "modern_ebpf", "modern_ebpf": {"buf_size_preset": 8}},
    }
    library = plugins / "libcontainer.so" if plugins is not None else None
    if library is not None and library.is_file():
        settings["load_plugins"] = ["container"]
        settings["plugins"] = [{"name": "container", "library_path": str(library)}]
    return settings


def falco_version(program: Path) -> str:
    """The version that a Falco says it is.

    Raises:
        FileAccessError: it cannot be started.
        FalcoError: it says something else.
    """
    try:
        done = subprocess.run((program, "--version"), capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FileAccessError(program, f"cannot be started: {error}") from error
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    if match is None:
        raise FalcoError(f"{program} does not say its version", "is it a Falco?")
    return match[1]


def complaints(program: Path, rules: Sequence[Path], folder: Path) -> list[str]:
    """What Falco says against rule files loaded together; empty where it takes them.

    Unused macros and lists are no complaint: a set of rules is not all rules.

    Args:
        program: the engine.
        rules: in the order of loading.
        folder: where a settings file may be written.
    """
    settings = folder / "validate.yaml"
    settings.write_text(json.dumps(falco_settings()))
    words = [word for path in rules for word in ("-V", str(path))]
    done = subprocess.run(
        (program, "-c", settings, *words), capture_output=True, timeout=120, check=False
    )
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        results = json.loads(lines[-1])["falco_load_results"]
    except (IndexError, ValueError, KeyError, TypeError):
        return [done.stderr.decode(errors="replace").strip()[-1000:] or "it says nothing"]
    return [
        f"{result['name']}: {one['code']}: {one.get('message', one.get('codedesc', ''))}"
        for result in results
        for kind in ("errors", "warnings", "schema_warnings")
        for one in result.get(kind, [])
        if isinstance(one, dict) and one["code"] not in {"LOAD_UNUSED_MACRO", "LOAD_UNUSED_LIST"}
    ]


class Falco:
    """One running Falco. Use it as a context manager; needs root.

    Args:
        program: the engine.
        rules: rule files in the order of loading.
        folder: an empty folder for its settings, log and alerts.
        plugins: where its plugins are.
    """

    def __init__(
        self, program: Path, rules: Sequence[Path], folder: Path, plugins: Path | None = None
    ) -> None:
        self.program = program
        self.alerts_file = folder / "alerts.json"
        self.log = folder / "falco.log"
        self._counters = folder / "counters.jsonl"
        self._rules = [*rules, folder / "mark.yaml"]
        self._folder = folder
        self._plugins = plugins
        self._run = new_run()
        self._number = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Falco's process id."""
        assert self._process is not None  # noqa: S101 - between start and stop
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def settings(self) -> dict[str, Any]:
        """What it is told."""
        counters = {
            "enabled": True,
            "interval": "1s",
            "output_file": str(self._counters),
            "kernel_event_counters_enabled": True,
            "include_empty_values": True,
        }
        return {**falco_settings(self._plugins), "metrics": counters}

    def environment(self) -> dict[str, str] | None:
        """What it finds there; ``None`` for what this process has."""
        return None

    def start(self) -> None:
        """Start it, and wait until it sees what happens.

        Raises:
            FalcoError: it ends, or sees nothing.
            IsolationError: drills cannot be done here.
        """
        (self._folder / "falco.yaml").write_text(json.dumps(self.settings()))
        (self._folder / "mark.yaml").write_text(_MARK_RULES)
        words = [word for path in self._rules for word in ("-r", str(path))]
        with self.alerts_file.open("wb") as out, self.log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    (self.program, "-c", self._folder / "falco.yaml", *words),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    env=self.environment(),
                )
            except OSError as error:
                raise FileAccessError(self.program, error.strerror or str(error)) from error
        with suppress(OSError):
            # What waits for the processor loses events.
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)
        try:
            self._await_mark(READY_S, "Falco sees nothing", again_s=0.0)
        except BaseException:
            self.stop()
            raise

    def settle(self) -> list[Alert]:
        """Wait until everything that has happened was seen; all alerts so far.

        Raises:
            FalcoError: it has ended.
        """
        # On a busy machine the mark itself may be lost; a later one says the same.
        self._await_mark(_LAST_S, "Falco has not seen everything", again_s=_AGAIN_S)
        # Other processors' buffers may still hold what happened at the same time.
        time.sleep(_SETTLE_S)
        lines = self.alerts_file.read_bytes().split(b"\n")
        alerts = [parse_alert(line) for line in lines if line.startswith(b"{")]
        return [alert for alert in alerts if alert is not None and alert.rule != _MARK_RULE]

    def lost(self) -> int:
        """How many events of the whole machine it could not take so far, by its own count."""
        return self.count("scap.n_drops")

    def count(self, name: str) -> int:
        """One of its counters, as it stood a second ago; 0 before it has written any."""
        try:
            last = self._counters.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2]
            return int(json.loads(last)["output_fields"][name])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def stop(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)
        self._process = None

    def _await_mark(self, seconds: float, problem: str, *, again_s: float) -> None:
        deadline = time.monotonic() + seconds
        due = time.monotonic()
        wanted: set[bytes] = set()
        act = Act(run=f"standin {_MARK_PROGRAM}\n{_MARK_PROGRAM}\n")
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + again_s
                self._number += 1
                mark = Mark(self._run, self._number)
                wanted.add(f'"{mark}"'.encode())
                perform(act, mark)
            time.sleep(0.3)
            seen = self.alerts_file.read_bytes()
            if any(one in seen for one in wanted):
                return
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace").strip()[-1500:]
                raise FalcoError(f"{problem}: {said or 'it says nothing'}")
