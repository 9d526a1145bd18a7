"""The whole way of an event, through real processes and real mutual TLS."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from sib_protocol.errors import ExitCode
from sib_protocol.identity import Identity, IdentityStore
from sib_protocol.ids import parse_host_id, parse_host_name
from sib_protocol.keys import key_pem
from tests.support.components import get
from tests.support.lab import Agent, Server, event_line, number_of
from tests.support.proxy import Proxy, wait_for
from tests.support.wire import Attacker

pytestmark = pytest.mark.timeout(180)


def numbers(server: Server) -> list[int]:
    return sorted(number_of(line) for line in server.lines())


def test_lines_come_home_byte_for_byte_and_can_be_searched(server: Server, agent: Agent) -> None:
    agent.start()
    odd = b"not json \xff\xfe\x00 here"
    big = event_line(2, size=3_000_000)
    agent.append(event_line(1), big, odd)
    wait_for("three lines", lambda: len(server.lines()) == 3, 40)
    assert server.lines() == [server.lines()[0], big, odd]

    done = server.cli("events", "search", "--json", "--since", "1h", "--technique", "T1003")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["event"]["output_fields"]["lab.n"] for event in found} == {1, 2}
    assert {event["host_name"] for event in found} == {"web-1"}
    everything = server.cli("events", "search", "--json").stdout.splitlines()
    unparsed = [json.loads(line) for line in everything if json.loads(line)["unparsed"]]
    assert len(unparsed) == 1
    assert "not json" in unparsed[0]["event"]


def test_agent_reports_itself_and_the_server_counts(server: Server, agent: Agent) -> None:
    agent.start()
    agent.append(*(event_line(number) for number in range(20)))
    wait_for("all lines", lambda: len(server.lines()) == 20, 40)

    wait_for("agent is well", lambda: agent.status()["state"] == "well", 40)
    status = agent.status()
    assert status["lines_read"] == 20
    wait_for("acknowledged", lambda: agent.status()["spool"]["waiting"] == 0, 40)

    def reported() -> bool:
        host = json.loads(server.cli("host", "show", "web-1", "--json").stdout)
        return host["last_seen"] is not None and host["state"] == "healthy"

    wait_for("a health report", reported, 40)
    page = get(f"http://127.0.0.1:{server.metrics_port}/metrics").decode()
    assert "sib_server_events_accepted_total 20.0" in page
    assert 'sib_server_hosts{state="healthy"} 1.0' in page
    assert get(f"http://127.0.0.1:{server.metrics_port}/healthz") == b"ok\n"
    standing = json.loads(server.cli("status", "--json").stdout)
    assert (standing["state"], standing["events"]) == ("well", 20)


def test_both_sides_killed_and_started_lose_and_double_nothing(
    server: Server, agent: Agent
) -> None:
    agent.start()
    stop = threading.Event()
    written = [0]

    def write() -> None:
        while not stop.is_set():
            agent.append(event_line(written[0]))
            written[0] += 1
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(4):
        time.sleep(0.4)
        agent.kill()
        agent.start()
        time.sleep(0.4)
        server.kill()
        server.start()
    stop.set()
    writer.join()
    wait_for("every line", lambda: len(server.lines()) >= written[0], 60)
    time.sleep(1)
    assert numbers(server) == list(range(written[0]))


def test_daemons_end_cleanly_when_told(server: Server, agent: Agent) -> None:
    agent.start()
    agent.append(event_line(1))
    wait_for("a line", lambda: len(server.lines()) == 1, 40)
    assert agent.stop() == 0
    assert server.stop() == 0
    assert "Traceback" not in agent.tail() + server.tail()
    assert agent.status()["state"] == "stopped"
    done = server.cli("status", "--json", check=False)
    assert done.returncode == ExitCode.INCOMPLETE
    assert json.loads(done.stdout)["state"] == "stopped"


def spool_files(agent: Agent) -> dict[str, int]:
    found = {}
    for path in (agent.directory / "spool").glob("*.seg"):
        # Given up between the look and the question.
        with suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found


def test_a_spool_over_its_quota_reports_exactly_what_it_gave_up(
    server: Server, make_agent: Callable[..., Agent]
) -> None:
    small = make_agent("small-1", {"spool": {"quota_bytes": 65536, "segment_bytes": 8192}})
    small.enroll(server.token())
    server.stop()
    small.start()
    for start in range(0, 300, 30):
        before = spool_files(small)
        # A single commit may pass the quota; so these are several.
        small.append(*(event_line(number) for number in range(start, start + 30)))
        wait_for("a commit", lambda before=before: spool_files(small) != before, 20)
    wait_for("the spool to overflow", lambda: small.status()["spool"]["lost"] > 0, 60)
    wait_for("all read", lambda: small.status()["lines_read"] == 300, 60)
    server.start()
    wait_for("the newest line", lambda: 299 in numbers(server), 90)
    kept = numbers(server)
    lost = 300 - len(kept)
    assert kept == list(range(lost, 300))
    done = server.cli("events", "search", "--json", "--rule", "SIB event gap")
    gaps = [json.loads(line)["event"]["output_fields"] for line in done.stdout.splitlines()]
    assert sum(gap["sib.lines"] for gap in gaps) == lost
    assert {gap["sib.reason"] for gap in gaps} == {"quota"}
    assert (
        f"sib_server_lines_lost_total {float(lost)}"
        in get(f"http://127.0.0.1:{server.metrics_port}/metrics").decode()
    )


def test_a_spool_put_back_from_a_copy_goes_on_in_a_new_stream(server: Server, agent: Agent) -> None:
    spool = agent.directory / "spool"
    agent.start()
    agent.append(event_line(0))
    wait_for("the first line", lambda: len(server.lines()) == 1, 40)
    agent.stop()
    copy = {path.name: path.read_bytes() for path in spool.iterdir() if path.is_file()}
    agent.start()
    agent.append(event_line(1), event_line(2))
    wait_for("three lines", lambda: len(server.lines()) == 3, 40)
    agent.stop()
    for path in spool.iterdir():
        path.unlink()
    for name, content in copy.items():
        (spool / name).write_bytes(content)
    agent.events_file.unlink()
    agent.append(event_line(3), event_line(4))
    agent.start()
    wait_for("the new lines", lambda: {3, 4} <= set(numbers(server)), 40)
    assert set(numbers(server)) == {0, 1, 2, 3, 4}


def test_a_journal_put_back_does_not_stop_an_agent(server: Server, agent: Agent) -> None:
    agent.start()
    agent.append(event_line(0))
    wait_for("the first line", lambda: len(server.lines()) == 1, 40)
    server.stop()
    journal = server.journal_path
    copy = {path: path.read_bytes() for path in journal.parent.iterdir() if path.is_file()}
    server.start()
    agent.append(event_line(1))
    wait_for("the second line", lambda: len(server.lines()) == 2, 40)
    wait_for("acknowledged", lambda: agent.status()["spool"]["waiting"] == 0, 40)
    server.stop()
    for path in list(journal.parent.iterdir()):
        path.unlink()
    for path, content in copy.items():
        path.write_bytes(content)
    server.start()
    agent.append(event_line(2))
    wait_for("the third line", lambda: 2 in numbers(server), 60)
    done = server.cli("events", "search", "--json", "--rule", "SIB event gap")
    (gap,) = [json.loads(line)["event"]["output_fields"] for line in done.stdout.splitlines()]
    assert (gap["sib.first"], gap["sib.last"], gap["sib.reason"]) == (1, 1, "acknowledged")


def test_renewal_is_taken_up_by_the_running_daemon(server: Server, agent: Agent) -> None:
    agent.start()
    before = agent.status()["certificate"]["serial"]
    renewed = json.loads(agent.cli("renew", "--json").stdout)["certificate"]["serial"]
    assert renewed != before
    assert agent.process is not None
    os.kill(agent.process.pid, signal.SIGHUP)
    agent.append(event_line(1))
    wait_for("a line", lambda: len(server.lines()) == 1, 40)
    assert server.cli("ca", "revoke", before).returncode == 0
    agent.append(event_line(2))
    wait_for("another", lambda: len(server.lines()) == 2, 40)


def test_a_host_whose_clock_is_slow_renews_what_the_server_takes_for_expired(
    server: Server, make_agent: Callable[..., Agent]
) -> None:
    slow = make_agent("slow-1")
    host = Attacker(server).enroll(slow.name, age=timedelta(days=8))
    now = int(time.time())
    identity = Identity(
        host_id=parse_host_id(host.id),
        host_name=parse_host_name(host.name),
        servers=(server.url,),
        serial=host.serial,
        # A day after it came, by a clock that stood still for a week.
        not_before=now - 3 * 86_400,
        not_after=now + 6 * 86_400,
        issued=now - 86_400,
    )
    IdentityStore(slow.directory / "identity").store(
        identity,
        key=key_pem(host.key),
        certificate=host.certificate.encode(),
        ca=server.authority.certificate_pem.encode(),
    )
    slow.start()
    slow.append(event_line(1))
    wait_for("a line", lambda: len(server.lines()) == 1, 60)
    assert slow.status()["certificate"]["serial"] != host.serial


def test_a_server_certificate_that_cannot_be_renewed_now_does_not_end_the_server(
    server: Server, agent: Agent
) -> None:
    agent.start()
    place = server.settings.pki.directory / "server"
    place.rename(place.with_name("away"))
    place.write_text("no directory")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for("a complaint", lambda: "cannot renew the server's certificate" in server.tail(), 20)
    agent.append(event_line(1))
    wait_for("a line", lambda: len(server.lines()) == 1, 40)
    place.unlink()
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for("another certificate", (place / "current").exists, 20)
    assert server.running


def test_a_server_that_ends_because_a_part_of_it_died_says_so_to_systemd(server: Server) -> None:
    server.stop()
    script = (
        "import sys, sib_server.daemon as daemon\n"
        "async def dies(self): raise RuntimeError('a bug')\n"
        "daemon.ServerDaemon._report = dies\n"
        "from sib_server.cli import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--config", str(server.config), "serve"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # 'Restart=on-failure' starts nothing again that ended well.
    assert done.returncode == ExitCode.FAILURE, done.stderr
    assert "the task report ended" in done.stderr


def test_a_damaged_identity_does_not_end_a_running_daemon(server: Server, agent: Agent) -> None:
    agent.start()
    current = agent.directory / "identity" / "current"
    good = (current / "cert.pem").read_bytes()
    (current / "cert.pem").write_bytes(b"nonsense")
    assert agent.process is not None
    os.kill(agent.process.pid, signal.SIGHUP)
    wait_for("a complaint", lambda: "cannot take up the identity" in agent.tail(), 20)
    (current / "cert.pem").write_bytes(good)
    agent.append(event_line(1))
    wait_for("a line", lambda: len(server.lines()) == 1, 40)
    assert agent.running


def test_agent_goes_on_with_the_second_server_address(
    server: Server, make_agent: Callable[..., Agent]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = probe.getsockname()[1]
    proxy = Proxy(server.port)
    tree = json.loads(json.dumps(server.tree))
    tree["listen"]["public_urls"] = [
        f"https://127.0.0.1:{dead}",
        f"https://127.0.0.1:{proxy.port}",
    ]
    server.config.write_text(json.dumps(tree))
    token = json.loads(server.cli("token", "create", "--json").stdout)["token"]
    second = make_agent("second-1")
    second.enroll(token)
    second.start()
    second.append(event_line(7))
    wait_for("a line", lambda: len(server.lines()) == 1, 30)
    proxy.close()


def test_bad_settings_and_tokens_get_a_sentence_and_an_exit_code(
    make_agent: Callable[..., Agent],
) -> None:
    fresh = make_agent("fresh-1")
    done = fresh.cli("enroll", text="sib1.nonsense", check=False)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith("error: this is not an enrollment token")
    done = fresh.cli("status", check=False)
    assert done.returncode == ExitCode.NOT_FOUND
    assert "sib-agent enroll" in done.stderr
    fresh.config.write_text("spool: {quotabytes: 5}\n")
    done = fresh.cli("status", check=False)
    assert done.returncode == ExitCode.SETTINGS
    assert "spool.quotabytes: unknown setting" in done.stderr
    assert "did you mean 'quota_bytes'?" in done.stderr
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text


def test_the_same_port_twice_is_an_error_that_names_it(server: Server) -> None:
    done = server.cli("serve", check=False)
    assert done.returncode == ExitCode.CONFLICT
    assert f"port {server.port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_enrolled_twice_needs_force(server: Server, agent: Agent) -> None:
    done = agent.cli("enroll", "--name", "other", text=server.token(), check=False)
    assert done.returncode == ExitCode.CONFLICT
    assert "enrolled already" in done.stderr
    done = agent.cli("unenroll", "--dry-run")
    assert "web-1" in done.stdout
    assert agent.status()["host_name"] == "web-1"
    agent.cli("unenroll", "--yes", "--spool")
    assert agent.cli("status", check=False).returncode == ExitCode.NOT_FOUND
