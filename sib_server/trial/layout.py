"""Where a trial keeps its files, and the settings of its server and agent. Pure but for ports."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrialLayout:
    """A trial's directory.

    Attributes:
        directory: the trial's own.
        port: of the server, on loopback.
        metrics_port: of the server's metrics, on loopback.
    """

    directory: Path
    port: int
    metrics_port: int

    @property
    def server_settings(self) -> Path:
        """The server's settings file."""
        return self.directory / "server.yaml"

    @property
    def agent_settings(self) -> Path:
        """The agent's settings file."""
        return self.directory / "agent.yaml"

    @property
    def events_file(self) -> Path:
        """Falco's events file."""
        return self.directory / "agent" / "events" / "events.json"

    @property
    def status_file(self) -> Path:
        """The agent's status file."""
        return self.directory / "agent" / "status.json"

    def log(self, name: str) -> Path:
        """Where a process's stderr goes."""
        return self.directory / f"{name}.log"

    def server_yaml(self) -> str:
        """The server's settings."""
        state = self.directory / "server"
        return _yaml(
            {
                "listen": {
                    "address": "127.0.0.1",
                    "port": self.port,
                    "names": ["127.0.0.1", "localhost"],
                    "public_urls": [f"https://127.0.0.1:{self.port}"],
                },
                "state": {"url": f"sqlite:///{state / 'state.db'}"},
                "pki": {"directory": str(state / "pki")},
                "journal": {"path": str(state / "journal.db")},
                "bundles": {"directory": str(state / "bundles")},
                "metrics": {"port": self.metrics_port},
            }
        )

    def agent_yaml(self) -> str:
        """The agent's settings."""
        state = self.directory / "agent"
        return _yaml(
            {
                "identity": {"directory": str(state / "identity")},
                "events": {"file": str(self.events_file)},
                "spool": {"directory": str(state / "spool")},
                "status": {"file": str(self.status_file)},
                "metrics": {"port": None},
                "falco": {"enabled": False, "bundles": str(state / "bundles")},
                "bundles": {"state": str(state / "bundle-state")},
            }
        )


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False)


def free_port() -> int:
    """A TCP port on loopback that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
