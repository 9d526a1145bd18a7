"""What the trial's agent gets to read: a real Falco's recorded alerts, or a real Falco."""

from __future__ import annotations

import os
import shutil
import threading
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAUSE_SECONDS: Final = 0.005


def recorded_lines() -> list[bytes]:
    """The alerts that a real Falco 0.44 wrote while two hosts were misused, in order."""
    text = files("sib_server.trial").joinpath("falco-events.jsonl").read_bytes()
    return text.splitlines()


def append_as_falco(path: Path, line: bytes) -> None:
    """Write one alert as Falco does with ``keep_alive: false``: open, append, close."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line + b"\n")
    finally:
        os.close(descriptor)


class Feeder(threading.Thread):
    """Writes the recorded alerts, a little apart from each other.

    Args:
        lines: without newlines.
        path: the events file.
    """

    def __init__(self, lines: Sequence[bytes], path: Path) -> None:
        super().__init__(name="feeder", daemon=True)
        self._lines = lines
        self._path = path
        self.stop = threading.Event()

    def run(self) -> None:
        """Write them all, or until :attr:`stop`."""
        for line in self._lines:
            append_as_falco(self._path, line)
            if self.stop.wait(_PAUSE_SECONDS):
                return


def find_falco() -> Path | None:
    """A real Falco that can be run: needs root, and ``falco`` on the PATH or in SIB_COMPONENTS."""
    if os.geteuid() != 0:
        return None
    components = os.environ.get("SIB_COMPONENTS")
    candidates = [Path(components) / "falco" / "falco"] if components else []
    on_path = shutil.which("falco")
    candidates += [Path(on_path)] if on_path else []
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def falco_command(falco: Path, events_file: Path) -> tuple[str, ...]:
    """How Falco is run: its own settings and rules, but our output and the modern eBPF probe."""
    options = {
        "engine.kind": "modern_ebpf",
        "json_output": "true",
        "json_include_output_property": "true",
        "json_include_tags_property": "true",
        "file_output.enabled": "true",
        "file_output.keep_alive": "false",
        "file_output.filename": str(events_file),
        "stdout_output.enabled": "false",
        "syslog_output.enabled": "false",
        "http_output.enabled": "false",
        "webserver.enabled": "false",
    }
    return (
        str(falco),
        *(part for key, value in options.items() for part in ("-o", f"{key}={value}")),
    )
