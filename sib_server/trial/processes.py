"""The trial's processes: started, watched for an early end, and ended with the trial."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_STOP_SECONDS: Final = 5.0


class TrialProcessError(SibError):
    """A process of the trial ended, or did not get ready in time."""

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, name: str, problem: str, log: Path) -> None:
        super().__init__(f"{name} {problem}{_last_words(log)}", f"see {log}")
        self.name = name
        self.log = log


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1]}" if lines else ""


class TrialProcess:
    """One process, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def check(self) -> None:
        """Raises TrialProcessError if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise TrialProcessError(self.name, f"ended with {code}", self.log)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until something holds. Raises TrialProcessError."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise TrialProcessError(self.name, f"was not ready in {seconds:.0f} s", self.log)
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line of one of our own programs, with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


def run_to_end(name: str, command: Sequence[str], text: str, log: Path) -> None:
    """Run a short process with something on its standard input.

    Raises:
        TrialProcessError: it failed.
    """
    done = subprocess.run(
        command, input=text.encode(), capture_output=True, timeout=60, check=False
    )
    with log.open("ab") as output:
        output.write(done.stdout + done.stderr)
    if done.returncode:
        raise TrialProcessError(name, f"ended with {done.returncode}", log)
