"""A process that is started again whenever it ends, as systemd does with ``Restart=always``."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.lab import ROOT

_AGAIN_SECONDS = 0.5


class Kept:
    """Kept running in a thread of its own until :meth:`end`.

    Attributes:
        environment: added at the next start.
        starts: how often it was started.
        killed: how often we killed it.
        ended: how it ended when nobody had killed it, one exit code each.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.environment: dict[str, str] = {}
        self.starts = self.killed = 0
        self.ended: list[int] = []
        self._command = list(command)
        self._log = log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"keep {name}")

    def start(self) -> None:
        self._thread.start()

    def kill(self, down: float = 0.0) -> None:
        """kill -9, and stay down for so many seconds."""
        with self._lock:
            self._not_before = time.monotonic() + down
            if self._process is not None:
                self._process.kill()
                self._process.wait(10)
                self._process = None
                self.killed += 1

    def end(self) -> None:
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(10)
        with self._lock:
            if self._process is not None:
                self._process.terminate()
                try:
                    self._process.wait(10)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait(10)

    def _keep(self) -> None:
        while not self._ending.wait(0.05):
            with self._lock:
                self._look()

    def _look(self) -> None:
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self.ended.append(code)
            self._process = None
            self._not_before = time.monotonic() + _AGAIN_SECONDS
        if time.monotonic() < self._not_before:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **self.environment},
            )
        self.starts += 1
