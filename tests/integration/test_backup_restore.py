"""A server is lost and comes back from its backup on another machine: no agent notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sib_protocol.errors import ExitCode
from sib_server.pki import ledger
from tests.support.lab import Agent, Server, event_line, merge, number_of
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(240)


def numbers(server: Server) -> list[int]:
    return sorted(number_of(line) for line in server.lines())


def make_key(directory: Path, server: Server) -> tuple[Path, str]:
    secret = directory / "backup.key"
    public = server.cli("backup-key", str(secret)).stdout.strip()
    assert secret.stat().st_mode & 0o777 == 0o600
    return secret, public


@pytest.fixture
def fresh(server: Server, tmp_path: Path) -> Iterator[Server]:
    """Not started, as a package makes it, in other directories under the same address."""
    with Server(tmp_path / "replacement", {"listen": server.tree["listen"]}) as made:
        made.port = server.port
        yield made


def renew(agent: Agent) -> str:
    """Renew under the running daemon. Returns the new certificate's serial number.

    The daemon is told, but nothing says when it has begun to use it: see :func:`in_use`.
    """
    done = agent.cli("renew", "--json")
    assert agent.process is not None
    os.kill(agent.process.pid, signal.SIGHUP)
    return ledger.normal_serial(json.loads(done.stdout)["certificate"]["serial"])


def in_use(server: Server, serial: str) -> bool:
    context = server.context()
    try:
        with context.state.read() as connection:
            found = ledger.find_by_serial(connection, serial)
    finally:
        context.close()
    return found is not None and found.first_used_ns is not None


def append(agent: Agent, *many: int) -> None:
    agent.append(*(event_line(number) for number in many))


def gaps(server: Server) -> list[dict[str, Any]]:
    done = server.cli("events", "search", "--json", "--rule", "SIB event gap")
    return [json.loads(line)["event"]["output_fields"] for line in done.stdout.splitlines()]


def test_agents_go_on_with_a_server_restored_elsewhere(
    server: Server, fresh: Server, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    kept, renewed, late = (make_agent(name) for name in ("kept-1", "renewed-1", "late-1"))
    for agent in (kept, renewed):
        agent.enroll(server.token())
        agent.start()
    (server.config.parent / "rules.d").mkdir()
    (server.config.parent / "rules.d" / "own.yaml").write_text("- list: mine\n  items: [a]\n")
    append(kept, *range(10))
    append(renewed, *range(100, 110))
    wait_for("the first lines", lambda: len(server.lines()) == 20, 40)

    secret, public = make_key(tmp_path, server)
    backup = tmp_path / "sib.age"
    report = json.loads(server.cli("backup", str(backup), "--recipient", public, "--json").stdout)
    assert {"config", "pki", "state"} <= report["parts"].keys()
    assert "journal" not in report["parts"]
    assert backup.stat().st_mode & 0o777 == 0o600

    # Whether a backup is good can be seen while the server runs; only putting it in place cannot.
    checking = ["restore", str(backup), "--key-file", str(secret), "--replace"]
    seen = json.loads(server.cli(*checking, "--dry-run", "--json").stdout)
    assert seen["ca_pin"] == server.authority.pin
    assert server.cli(*checking, check=False).returncode == ExitCode.CONFLICT

    # What the backup does not know: a renewed certificate, a host that came later.
    serial = renew(renewed)
    late.enroll(server.token())
    late.start()
    append(kept, *range(10, 20))
    append(renewed, *range(110, 120))
    append(late, *range(200, 210))
    wait_for("more lines", lambda: len(server.lines()) == 50, 40)
    # Until then renewed-1 comes with the certificate that the backup has.
    wait_for("the renewed certificate is in use", lambda: in_use(server, serial), 60)
    before = numbers(server)
    pin = server.authority.pin

    server.kill()
    shutil.rmtree(server.directory)
    append(kept, *range(20, 30))
    append(late, *range(210, 220))

    arguments = ["restore", str(backup), "--key-file", str(secret), "--keep-config"]
    refused = fresh.cli(*arguments, check=False)
    assert refused.returncode == ExitCode.CONFLICT
    assert "--replace" in refused.stderr
    dry = json.loads(fresh.cli(*arguments, "--replace", "--dry-run", "--json").stdout)
    assert dry["set_aside"] == [str(fresh.settings.pki.directory)]
    assert fresh.context().authority.pin != pin
    done = fresh.cli(*arguments, "--replace")
    assert "host list" in done.stdout
    assert fresh.context().authority.pin == pin
    assert len(list(fresh.directory.glob("pki.before-restore-*"))) == 1
    assert not list(fresh.directory.glob(".*restore-*")), "staging was left behind"

    fresh.start()
    append(renewed, *range(120, 130))
    wait_for(f"what was waiting {fresh.tail()}", lambda: len(fresh.lines()) >= 30, 60)
    wait_for("nothing is waiting", lambda: kept.status()["spool"]["waiting"] == 0, 40)
    assert sorted(before + numbers(fresh)) == [*range(30), *range(100, 130), *range(200, 220)]
    assert gaps(fresh) == []
    hosts = {host["name"] for host in json.loads(fresh.cli("host", "list", "--json").stdout)}
    assert hosts == {"kept-1", "renewed-1", "late-1"}
    assert fresh.log.read_text().count("taken up after the restore") == 2
    # An adopted certificate is one like any other: it renews, and it is revoked.
    renewed.cli("renew")
    fresh.cli("host", "remove", "late-1", "--yes")
    append(late, 999)
    wait_for("the removed host is refused", lambda: late.status()["state"] != "well", 60)
    assert 999 not in numbers(fresh)
    assert fresh.stop() == 0


def test_a_journal_put_back_tells_what_is_gone(
    server: Server, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    append(agent, *range(10))
    wait_for("ten lines", lambda: len(server.lines()) == 10, 40)
    secret, public = make_key(tmp_path, server)
    backup = tmp_path / "sib.age"
    server.cli("backup", str(backup), "--recipient", public, "--journal")
    append(agent, *range(10, 25))
    wait_for("25 lines", lambda: len(server.lines()) == 25, 40)
    wait_for("acknowledged", lambda: agent.status()["spool"]["waiting"] == 0, 40)
    server.kill()

    # On the same machine, with the settings of the backup.
    append(agent, *range(25, 30))
    done = server.cli("restore", str(backup), "--key-file", str(secret), "--replace", "--json")
    assert json.loads(done.stdout)["places"]["journal"] == str(server.journal_path)
    server.start()
    wait_for("what was waiting", lambda: 29 in numbers(server), 60)
    (gap,) = gaps(server)
    lost = gap["sib.lines"]
    assert numbers(server) == [*range(10), *range(10 + lost, 30)]
    assert lost == 15


def test_a_running_server_is_not_replaced(server: Server, tmp_path: Path) -> None:
    secret, public = make_key(tmp_path, server)
    backup = tmp_path / "sib.age"
    server.cli("backup", str(backup), "--recipient", public)
    again = server.cli("backup", str(backup), "--recipient", public, check=False)
    assert again.returncode == ExitCode.CONFLICT
    done = server.cli("restore", str(backup), "--key-file", str(secret), "--replace", check=False)
    assert done.returncode == ExitCode.CONFLICT
    assert server.running
    assert not list(server.directory.glob("*.before-restore-*"))


def test_backups_through_pipes_by_passphrase_and_by_settings(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    secret, public = make_key(tmp_path, server)
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase of some length\n")
    command = [*server.arguments[:-1], "backup"]
    no_key = server.cli("backup", str(tmp_path / "x"), check=False)
    assert no_key.returncode == ExitCode.USAGE
    server.context().state.close()

    by_passphrase = subprocess.run(
        [*command, "-", "--passphrase-file", str(passphrase)], capture_output=True, check=True
    ).stdout
    server.config.write_text(
        yaml.safe_dump(merge(server.tree, {"backup": {"recipients": [public]}}))
    )
    by_settings = subprocess.run([*command, "-"], capture_output=True, check=True).stdout
    for content, option in (
        (by_passphrase, ("--passphrase-file", str(passphrase))),
        (by_settings, ("--key-file", str(secret))),
    ):
        path = tmp_path / "piped.age"
        path.write_bytes(content)
        done = server.cli("restore", str(path), *option, "--dry-run", "--json")
        assert json.loads(done.stdout)["ca_pin"] == server.authority.pin
    wrong = server.cli("restore", str(tmp_path / "piped.age"), check=False)
    assert wrong.returncode == ExitCode.USAGE
    other, _ = make_key(tmp_path / "server", server)
    wrong = server.cli(
        "restore", str(tmp_path / "piped.age"), "--key-file", str(other), check=False
    )
    assert wrong.returncode == ExitCode.REFUSED
    (tmp_path / "cut.age").write_bytes(by_settings[:-10])
    cut = server.cli(
        *("restore", str(tmp_path / "cut.age"), "--key-file", str(secret), "--replace"),
        check=False,
    )
    assert cut.returncode == ExitCode.DAMAGED
    assert not list(server.directory.glob("*.before-restore-*"))


def test_a_state_in_postgresql_is_not_half_backed_up(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", {"state": {"url": "postgresql://sib@127.0.0.1:1/sib"}})
    _, public = make_key(tmp_path, server)
    done = server.cli("backup", str(tmp_path / "x.age"), "--recipient", public, check=False)
    assert done.returncode == ExitCode.REFUSED
    assert "pg_dump" in done.stderr
    assert not (tmp_path / "x.age").exists()
