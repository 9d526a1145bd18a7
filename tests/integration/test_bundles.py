"""Bundles from a real server to real agents, with the real Falco where it is found."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from sib_agent.bundles.asking import WITHIN_SECONDS
from sib_agent.bundles.engine import Falco
from sib_agent.settings import AgentSettings
from sib_protocol.errors import ExitCode
from sib_protocol.settings import parse_settings
from tests.fakes import falco as fake
from tests.support.components import get
from tests.support.falco_unit import FalcoUnit, agent_settings, install_fake, install_real
from tests.support.lab import Agent, Server
from tests.support.proxy import wait_for

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

# Loading the real probe takes seconds, and a minute on a machine that is busy with other things.
PATIENCE = 200.0
# A report a second, so that tests need not wait for thirty.
QUICK = {"fleet": {"health_interval_seconds": 1.0}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server", QUICK)
    running.cli("bundle", "init")
    running.start()
    yield running
    if running.running:
        assert running.stop() == 0


def rule(name: str, condition: str, **more: Any) -> bytes:
    tree = {
        "rule": name,
        "desc": "for a test",
        "condition": condition,
        "output": "seen (command=%proc.cmdline)",
        "priority": "NOTICE",
        **more,
    }
    return yaml.safe_dump([tree], sort_keys=False, width=1000).encode()


def quiet(number: int) -> bytes:
    return rule(f"Quiet {number}", fake.QUIET)


def publish(server: Server, text: bytes, *more: str) -> int:
    folder = server.directory / "compiled"
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    (folder / "rules" / "10-own.yaml").write_bytes(text)
    done = server.cli("bundle", "publish", "--from", str(folder), "--json", *more)
    version: int = json.loads(done.stdout)["published"]
    return version


def bundle_of(agent: Agent) -> dict[str, Any]:
    return dict(agent.status().get("bundle") or {"version": 0})


def ended(agent: Agent, version: int, seconds: float = PATIENCE) -> dict[str, Any]:
    """How a version ended on a host, once it did.

    One that is not taken may have been followed by what the server publishes in its place before
    anybody looked.
    """
    ends: dict[int, dict[str, Any]] = {}

    def done() -> bool:
        assert agent.running, agent.tail()
        bundle = bundle_of(agent)
        ends.update(
            {end["version"]: end for key in ("ended", "failed") if (end := bundle.get(key))}
        )
        return version in ends

    wait_for(lambda: f"bundle {version} ends: {agent.tail()}", done, seconds)
    return ends[version]


def in_force(agent: Agent) -> str:
    return str((agent.directory / "bundles" / "current").readlink())


def status(server: Server) -> Any:
    return json.loads(server.cli("bundle", "status", "--json", check=False).stdout)


def test_published_rules_reach_hosts_and_the_server_knows(
    server: Server, make_agent: Callable[..., Agent]
) -> None:
    agents = [make_agent(name) for name in ("web-1", "db-1")]
    for agent, tags in zip(agents, (["--tag", "web"], []), strict=True):
        token = server.cli("token", "create", "--json", *tags).stdout
        agent.enroll(json.loads(token)["token"])
        agent.start()
    own = server.directory / "rules.d" / "web"
    own.mkdir(parents=True)
    (own / "apache.yaml").write_bytes(rule("Apache", fake.QUIET))
    version = publish(server, quiet(1))
    for agent in agents:
        assert ended(agent, version)["outcome"] == "unwatched"
        assert (agent.directory / "bundles" / "current" / "rules" / "10-own.yaml").read_bytes() == (
            quiet(1)
        )
    tagged = [
        (agent.directory / "bundles" / "current" / "rules" / "80-web-apache.yaml").exists()
        for agent in agents
    ]
    assert tagged == [True, False]
    assert bundle_of(agents[0])["engine"] == "no engine"
    wait_for("the server knows", lambda: status(server)["hosts"]["current"] == 2, 20)

    # Back to what was before: a new number, and rules that are in force again.
    second = publish(server, quiet(2))
    ended(agents[0], second)
    back = json.loads(server.cli("bundle", "rollback", "--yes", "--json").stdout)["published"]
    ended(agents[0], back)
    current = agents[0].directory / "bundles" / "current" / "rules" / "10-own.yaml"
    assert current.read_bytes() == quiet(1)


@pytest.mark.parametrize("cause", ["reports fail", "reports are rare"])
def test_a_bundle_is_known_in_time_though_no_report_is_answered(
    tmp_path: Path, make_agent: Callable[..., Agent], cause: str
) -> None:
    interval = 600.0 if cause == "reports are rare" else 5.0
    with Server(tmp_path / "server", {"fleet": {"health_interval_seconds": interval}}) as server:
        server.cli("bundle", "init")
        first = publish(server, quiet(1))
        server.start()
        agent = make_agent("web-1")
        agent.enroll(server.token())
        agent.start()
        ended(agent, first)

        def asks(answer: str) -> int:
            page = get(f"http://127.0.0.1:{server.metrics_port}/metrics").decode()
            (line,) = re.findall(rf'bundle_asks_total{{answer="{answer}"}} (\d+)\.0', page)
            return int(line)

        with closing(sqlite3.connect(server.directory / "state.db", isolation_level=None)) as state:
            if cause == "reports fail":
                # Somebody holds the database: nothing can be stored, and reports are refused.
                state.execute("BEGIN IMMEDIATE")
            reported = last_report(state)
            wait_for(lambda: f"it asks: {agent.tail()}", lambda: asks("same") > 0, PATIENCE)
            second = publish(server, quiet(2))
            begin = time.monotonic()
            wait_for(lambda: f"it is told: {agent.tail()}", lambda: asks("new") > 0, PATIENCE)
            took = time.monotonic() - begin
            # In time by itself; a busy machine is given as much again.
            assert took < 2 * WITHIN_SECONDS
            wait_for("it is in force", lambda: in_force(agent) == str(second), PATIENCE)
            assert last_report(state) == reported
            assert asks("new") == 1


def last_report(state: sqlite3.Connection) -> Any:
    return state.execute("SELECT received_ns FROM health").fetchall()


def test_a_killed_agent_always_has_a_whole_bundle(
    server: Server, make_agent: Callable[..., Agent]
) -> None:
    agent = make_agent("web-1")
    agent.enroll(server.token())
    draw = random.Random(20)
    texts = {b""}
    last = 0
    for number in range(5):
        agent.start()
        texts.add(quiet(number))
        last = publish(server, quiet(number))
        # Fetching, unpacking, trying, switching: all of it is within these seconds.
        time.sleep(draw.uniform(0.2, 3.5))
        agent.kill()
        rules = agent.directory / "bundles" / "current" / "rules"
        if rules.parent.is_symlink():
            found = [path.read_bytes() for path in sorted(rules.iterdir())]
            assert len(found) <= 1
            assert set(found) <= texts
    agent.start()
    ended(agent, last)
    assert in_force(agent) == str(last)
    left = {path.name for path in (agent.directory / "bundle-state").iterdir()}
    assert left == {"state.json", "trust"}


@pytest.fixture(params=["real", "fake"])
def falco(
    request: pytest.FixtureRequest,
    server: Server,
    make_agent: Callable[..., Agent],
    tmp_path: Path,
) -> Iterator[tuple[str, Agent, FalcoUnit]]:
    """An agent beside a running Falco, with a first good bundle in force."""
    home = tmp_path / "sib-falco"
    (install_real if request.param == "real" else install_fake)(home)
    agent = make_agent("web-1", agent_settings(home))
    agent.enroll(server.token())
    unit = FalcoUnit(agent)
    unit.start()
    agent.start()
    try:
        engine = Falco(parse_settings(agent.config.read_text(), AgentSettings, agent.config).falco)
        wait_for("falco answers", lambda: engine.look() is not None, PATIENCE)
        first = publish(server, quiet(1))
        assert ended(agent, first)["outcome"] == "accepted", unit.tail()
        yield request.param, agent, unit
    finally:
        unit.stop()


def test_falco_judges_and_is_watched(server: Server, falco: tuple[str, Agent, FalcoUnit]) -> None:
    """What Falco rejects, what makes it storm, and what is good: in one life of an agent."""
    kind, agent, unit = falco
    good, starts = in_force(agent), unit.starts

    bad = publish(server, rule("Bad", "evt.type = open and proc.nonsense = 1"))
    end = ended(agent, bad)
    assert (end["outcome"], in_force(agent)) == ("refused", good)
    assert "10-own.yaml" in end["reason"]
    assert "nonexistent field" in end["reason"]

    unknown = publish(server, rule("Key", fake.QUIET, colour="red"))
    end = ended(agent, unknown)
    assert (end["outcome"], in_force(agent)) == ("refused", good)
    assert "could not be validated" in end["reason"]
    assert unit.starts == starts

    storm = publish(server, rule("Storm", fake.STORM))
    with _Busy() if kind == "real" else nullcontext():
        end = ended(agent, storm)
    assert (end["outcome"], in_force(agent)) == ("rolled_back", good), unit.tail()
    assert "events a second" in end["reason"]

    last = publish(server, quiet(9))
    assert ended(agent, last)["outcome"] == "accepted"
    assert in_force(agent) == str(last)
    done = agent.cli("status", "--json", check=False)
    assert done.returncode == ExitCode.OK, done.stdout


def test_a_bundle_that_makes_falco_crash_is_taken_back(
    server: Server, falco: tuple[str, Agent, FalcoUnit]
) -> None:
    kind, agent, unit = falco
    good, starts = in_force(agent), unit.starts
    if kind == "real":
        # Falco takes the list, and the unit's bound of memory ends it: as the kernel would.
        unit._memory = _resident_now(unit) + 8 * 2**20
        items = "".join(f"  - /opt/some/long/path/of/nobody/{n:07d}\n" for n in range(60_000))
        text = (
            b"- list: sib_big\n  items:\n"
            + items.encode()
            + rule("Big", "evt.type = execve and proc.exepath in (sib_big)")
        )
    else:
        text = rule("Crash", fake.CRASH)
    version = publish(server, text)
    end = ended(agent, version)
    assert (end["outcome"], in_force(agent)) == ("rolled_back", good), unit.tail()
    assert end["reason"].startswith("Falco ")
    # For the bundle and for the one before. Whether it was started again between is a matter of
    # who is first: systemd after its second, or the agent with the one before.
    assert unit.starts >= starts + 2
    # It comes back with what it had; the server stops the rollout, and that disturbs nobody.
    wait_for("the server knows", lambda: _stopped(server), PATIENCE)
    assert f"bundle {version} is taken back: Falco" in agent.log.read_text()
    assert ended(agent, version + 1)["reason"] == "its rules were in force already"
    assert in_force(agent) == good


def _stopped(server: Server) -> bool:
    return status(server)["rollout"]["stopped"] is not None


def _resident_now(unit: FalcoUnit) -> int:
    pid = unit._process_or_fail().pid
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class _Busy:
    """Makes system calls, as a busy host does."""

    def __enter__(self) -> None:
        self._stop = threading.Event()

        def work() -> None:
            while not self._stop.is_set():
                for _ in range(200):
                    with suppress(OSError):
                        Path("/proc/self/stat").read_bytes()
                time.sleep(0.02)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_rollout_that_fails_on_canaries_is_stopped_and_they_get_what_they_had(
    server: Server, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    home = tmp_path / "sib-falco"
    install_fake(home)
    agents = [make_agent(f"web-{number}", agent_settings(home)) for number in range(2)]
    for agent in agents:
        agent.enroll(server.token())
        (agent.directory / "falco.yaml").write_text("json_output: true\n")
        agent.start()
    first = publish(server, quiet(1))
    for agent in agents:
        ended(agent, first)
    server.cli("bundle", "rollback", "--dry-run", check=False)
    bad = publish(server, rule("Bad", "proc.nonsense = 1"), "--canary", "1%")
    wait_for("the rollout is stopped", lambda: _stopped(server), 60)
    view = status(server)
    assert view["rollout"]["stopped"]["version"] == bad
    assert "1 of 1 hosts refused it" in view["rollout"]["stopped"]["reason"]
    assert view["version"] == bad + 1
    for agent in agents:
        end = ended(agent, bad + 1)
        assert (end["outcome"], "in force already" in end["reason"]) == ("accepted", True)
        assert in_force(agent) == str(first)
    # Only one of the two was ever asked.
    tried = [f"bundle {bad} is refused" in agent.log.read_text() for agent in agents]
    assert sorted(tried) == [False, True]
