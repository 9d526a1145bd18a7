"""``scripts/bench bundles --agents 5``: how soon real agents have what was published.

A small fleet of real agents with the default settings and no Falco; the time is from the moment
that a bundle is signed to the rename that puts it in force on a host.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.load import Percentiles, machine
from tests.support.lab import Agent, Server
from tests.support.proxy import wait_for


def publish(server: Server, number: int, size: int) -> tuple[int, float]:
    """Its version, and when it was signed, seconds since 1970."""
    compiled = server.directory / "compiled"
    (compiled / "rules").mkdir(parents=True, exist_ok=True)
    text = random.Random(number).randbytes(size).hex()
    (compiled / "rules" / "10-own.yaml").write_text(f"- list: own\n  items: []\n# {text}\n")
    server.cli("bundle", "publish", "--from", str(compiled), "--json")
    made = json.loads((server.directory / "bundles" / "releases.json").read_bytes())
    newest = made["history"][-1]
    return newest["version"], newest["made_ns"] / 1e9


def in_force_at(agent: Agent, version: int) -> float | None:
    """When a version was put in force, if it was."""
    current = agent.directory / "bundles" / "current"
    try:
        return current.lstat().st_mtime if str(current.readlink()) == str(version) else None
    except FileNotFoundError:
        return None


def run(count: int, rounds: int, size: int) -> dict[str, Any]:
    draw = random.Random(1)
    times: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="sib-bench-agents-") as place,
        Server(Path(place) / "server") as server,
        ExitStack() as stack,
    ):
        server.cli("bundle", "init")
        server.start()
        agents = [
            stack.enter_context(Agent(Path(place) / f"agent-{number}", f"web-{number}"))
            for number in range(count)
        ]
        for agent in agents:
            agent.enroll(server.token())
            agent.start()
        # The first reports come sooner than later ones.
        time.sleep(35)
        for number in range(rounds):
            time.sleep(draw.uniform(0, 30))
            version, signed = publish(server, number, size)

            def all_have(version: int = version) -> bool:
                return all(in_force_at(agent, version) for agent in agents)

            wait_for("all agents have it", all_have, 120)
            times += [(in_force_at(agent, version) or 0.0) - signed for agent in agents]
    return {
        "machine": machine(),
        "agents": count,
        "bundles": rounds,
        "seconds_from_signed_to_in_force": Percentiles.of(times).rounded(),
    }
