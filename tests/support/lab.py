"""A server and agents as real processes, each in a directory of its own, for tests and benches."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sib_protocol.settings import parse_settings
from sib_protocol.tokens import EnrollmentToken
from sib_server.cli.context import ServerContext
from sib_server.events.reader import JournalReader
from sib_server.events.stored import Seq
from sib_server.pki.authority import Authority
from sib_server.settings import ServerSettings
from tests.support.ports import free_port
from tests.support.proxy import wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0


def merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        inner = merged.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            merged[key] = merge(inner, value)
        else:
            merged[key] = value
    return merged


class Daemon:
    """One of our daemons: started, killed, started again; none outlives its ``with``."""

    def __init__(self, module: str, config: Path, command: str, log: Path) -> None:
        self.arguments = [sys.executable, "-m", module, "--config", str(config), command]
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()

    def start(self, environment: dict[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; returns how it ended."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def tail(self) -> str:
        with suppress(OSError):
            return self.log.read_text(errors="replace")[-3000:]
        return ""


class Server(Daemon):
    def __init__(
        self, directory: Path, settings: dict[str, Any] | None = None, *, public_port: int = 0
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.metrics_port = free_port()
        self.public_port = public_port or self.port
        self.config = directory / "server.yaml"
        self.tree = merge(
            {
                "listen": {
                    "address": "127.0.0.1",
                    "port": self.port,
                    "names": ["127.0.0.1", "localhost"],
                    "public_urls": [f"https://127.0.0.1:{self.public_port}"],
                },
                "state": {"url": f"sqlite:///{directory / 'state.db'}"},
                "pki": {"directory": str(directory / "pki")},
                "journal": {"path": str(directory / "journal" / "journal.db")},
                "bundles": {"directory": str(directory / "bundles")},
                "sigma": {"directory": str(directory / "sigma"), "alert_seconds": 5},
                "detection": {
                    "own_rules": str(directory / "rules.d"),
                    "directory": str(directory / "rules"),
                },
                "metrics": {"port": self.metrics_port},
            },
            settings or {},
        )
        self.config.write_text(yaml.safe_dump(self.tree))
        self.settings = parse_settings(self.config.read_text(), ServerSettings, self.config)
        self.authority = Authority.create(self.settings.pki.directory, "lab")
        super().__init__("sib_server", self.config, "serve", directory / "server.log")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def journal_path(self) -> Path:
        return self.settings.journal.path

    def start(self, environment: dict[str, str] | None = None) -> None:
        super().start(environment)
        wait_for(lambda: f"server listens: {self.tail()}", self._listens, READY_SECONDS)

    def _listens(self) -> bool:
        assert self.running, self.tail()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def context(self) -> ServerContext:
        return ServerContext(lambda: self.settings)

    def token(self, *, uses: int = 1) -> str:
        context = self.context()
        try:
            made = context.tokens.create(ttl=timedelta(hours=1), uses=uses)
            return EnrollmentToken(
                context.server_urls, context.authority.pin, made.record.id, made.secret
            ).text()
        finally:
            context.close()

    def lines(self) -> list[bytes]:
        """All lines in the journal that hosts sent."""
        found: list[bytes] = []
        if not self.journal_path.exists():
            return found
        with JournalReader(self.journal_path) as reader:
            after = Seq(0)
            while events := reader.read(after, max_events=5000, max_bytes=64 * 1024 * 1024):
                found += [event.line for event in events if event.summary.source != "sib"]
                after = events[-1].seq
        return found

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sib_server", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
            cwd=ROOT,
        )


class Agent(Daemon):
    def __init__(
        self, directory: Path, name: str = "web-1", settings: dict[str, Any] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = name
        self.config = directory / "agent.yaml"
        self.events_file = directory / "events" / "events.json"
        self.events_file.parent.mkdir(parents=True, exist_ok=True)
        self.status_file = directory / "status.json"
        tree = merge(
            {
                "identity": {"directory": str(directory / "identity")},
                "events": {"file": str(self.events_file)},
                "spool": {"directory": str(directory / "spool")},
                "status": {"file": str(self.status_file)},
                "metrics": {"port": None},
                "falco": {
                    "home": str(directory / "sib-falco"),
                    "config": str(directory / "falco.yaml"),
                    "bundles": str(directory / "bundles"),
                    "metrics_port": free_port(),
                },
                "bundles": {"state": str(directory / "bundle-state")},
            },
            settings or {},
        )
        self.config.write_text(yaml.safe_dump(tree))
        super().__init__("sib_agent", self.config, "run", directory / "agent.log")

    def start(self, environment: dict[str, str] | None = None, *, wait: bool = True) -> None:
        self.status_file.unlink(missing_ok=True)
        super().start(environment)
        if wait:
            wait_for("the agent runs", self._runs, READY_SECONDS)

    def _runs(self) -> bool:
        assert self.running, self.tail()
        return self.status_file.exists()

    def cli(
        self, *arguments: str, text: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sib_agent", "--config", str(self.config), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
            cwd=ROOT,
        )

    def enroll(self, token: str) -> dict[str, Any]:
        done = self.cli("enroll", "--name", self.name, "--json", text=token)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def status(self) -> dict[str, Any]:
        done = self.cli("status", "--json", check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def append(self, *lines: bytes) -> None:
        """As Falco writes with ``keep_alive: false``."""
        for line in lines:
            descriptor = os.open(
                self.events_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            try:
                os.write(descriptor, line + b"\n")
            finally:
                os.close(descriptor)


def event_line(number: int, *, size: int = 700, rule: str = "Lab rule") -> bytes:
    """An alert in Falco's form with a number of its own, about ``size`` bytes long."""
    now = time.time_ns()
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    # In Falco's own order: sorted, the time at the end.
    event: dict[str, Any] = {
        "hostname": "lab",
        "output": "",
        "output_fields": {"lab.n": number, "proc.name": "cat", "user.name": "root"},
        "priority": ("Notice", "Warning", "Error", "Critical")[number % 4],
        "rule": f"{rule} {number % 7}",
        "source": "syscall",
        "tags": ["T1003.008", "host", "mitre_credential_access"],
        "time": f"{second}.{now % 10**9:09d}Z",
    }
    bare = len(json.dumps(event, separators=(",", ":")))
    event["output"] = "x" * max(1, size - bare)
    return json.dumps(event, separators=(",", ":")).encode()


def number_of(line: bytes) -> int:
    """The number in a line of :func:`event_line`; cheap."""
    start = line.index(b'"lab.n":') + 8
    return int(line[start : line.index(b",", start)])
