"""Falco on a host as systemd keeps it: told when ``current`` is switched, started when it ends.

Either the real one, from ``SIB_COMPONENTS``, or the strict fake of :mod:`tests.fakes.falco`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sib_agent.settings import AgentSettings
from sib_agent.setup.facts import find_falco
from sib_agent.setup.falco_config import render_falco, render_probe
from sib_protocol.settings import parse_settings
from tests.support.components import component
from tests.support.lab import ROOT, Agent

RESTART_SECONDS = 1.0


def install_real(home: Path) -> None:
    """The real program in the place where the package would put it."""
    if os.geteuid() != 0:
        pytest.skip("falco needs root to load its probe")
    program = component("falco", "falco")
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "falco").symlink_to(program)


def install_fake(home: Path) -> None:
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "falco"
    program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m tests.fakes.falco "$@"\n')
    program.chmod(0o755)


class FalcoUnit:
    """``sib-falco.service`` with its restart, and ``sib-falco-reload.path``.

    Args:
        agent: says where all is; its settings are used as ``sib-agent setup`` would.
        memory: the most that it may take, bytes; ``MemoryMax`` of the unit.
    """

    def __init__(self, agent: Agent, *, memory: int | None = None) -> None:
        settings = parse_settings(agent.config.read_text(), AgentSettings, agent.config)
        falco = settings.falco
        falco.config.write_text(render_falco(settings, find_falco(falco)))
        falco.config.with_name("falco-probe.yaml").write_text(render_probe(falco))
        self._command = [str(falco.home / "bin" / "falco"), "-c", str(falco.config)]
        self._current = falco.bundles / "current"
        self._log = agent.directory / "falco.log"
        self._memory = memory
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._thread = threading.Thread(target=self._keep)

    def start(self) -> None:
        for part in ("rules", "drills"):
            (self._current.parent / "0" / part).mkdir(parents=True, exist_ok=True)
        if not self._current.is_symlink():
            self._current.symlink_to("0")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""

    def _keep(self) -> None:
        seen = None
        while not self._stop.is_set():
            if self._process is None or self._process.poll() is not None:
                if self.starts:
                    self._stop.wait(RESTART_SECONDS)
                seen = self._target()
                self._launch()
            if self._target() != seen and self._process is not None:
                seen = self._target()
                self._end(self._process)
                self._launch()
            if self._over_memory():
                self._process_or_fail().kill()
            self._stop.wait(0.2)
        if self._process is not None:
            self._end(self._process)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _process_or_fail(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _over_memory(self) -> bool:
        if self._memory is None or self._process is None:
            return False
        with suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGESIZE") > self._memory
        return False

    def _target(self) -> str | None:
        with suppress(OSError):
            return str(self._current.readlink())
        return None

    def _launch(self) -> None:
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )


def agent_settings(home: Path, **bundles: Any) -> dict[str, Any]:
    """Settings of an agent beside a Falco that is watched quickly."""
    return {
        "falco": {"home": str(home)},
        "bundles": {"comeback_seconds": 120.0, "probation_seconds": 4.0, **bundles},
    }
