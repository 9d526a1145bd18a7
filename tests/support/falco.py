"""The real Falco under the configuration that ``sib-agent setup`` writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sib_agent.setup.falco_config import PROBE_PREFIX
from tests.support.components import component, get
from tests.support.lab import Agent
from tests.support.ports import free_port

STARTS_WITHIN = 90.0


class RealFalco:
    """Falco for one agent of the lab; its files are where the agent's settings say.

    Args:
        agent: made with :meth:`settings`.
    """

    def __init__(self, agent: Agent, port: int) -> None:
        self.program = component("falco", "falco")
        self.agent, self.port = agent, port
        self.config = agent.directory / "falco.yaml"
        self.bundles = agent.directory / "bundles"
        self.log = agent.directory / "falco.log"
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def settings(directory: Path, port: int | None = None) -> dict[str, Any]:
        """What the agent's settings have to say for it."""
        home = directory / "home"
        (home / "bin").mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (home / "bin/falco").symlink_to(component("falco", "falco"))
        return {
            "falco": {
                "home": str(home),
                "config": str(directory / "falco.yaml"),
                "bundles": str(directory / "bundles"),
                "metrics_port": port or free_port(),
            },
            "alloy": {"enabled": False},
        }

    def dry_run(self) -> str:
        """What Falco says of its configuration and rules."""
        done = subprocess.run(
            [self.program, "-c", self.config, "--dry-run"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("a live Falco needs root")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-c", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_until_it_sees()

    def wait_until_it_sees(self) -> None:
        """Until a probe shows in its counters: loaded, attached and matching."""
        end = time.monotonic() + STARTS_WITHIN
        before = self.matches()
        while self.matches() <= before:
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            subprocess.run(["/bin/true", f"{PROBE_PREFIX}start"], check=True)
            time.sleep(0.3)

    def matches(self) -> float:
        """How often the probe's rule fired."""
        with suppress(OSError):
            for line in get(f"http://127.0.0.1:{self.port}/metrics").decode().splitlines():
                if "rules_matches_total" in line and 'rule_name="SIB probe"' in line:
                    return float(line.rpartition(" ")[2])
        return 0.0

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def put_in_force(self, version: str, rules: list[dict[str, Any]]) -> None:
        """As the bundle client does: a version's files, then the switch."""
        folder = self.bundles / version / "rules"
        folder.mkdir(parents=True)
        # YAML reads JSON.
        (folder / "50-test.yaml").write_text(json.dumps(rules))
        link = self.bundles / f".{version}"
        link.symlink_to(version)
        link.rename(self.bundles / "current")

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
