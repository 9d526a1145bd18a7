from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sib_protocol.errors import ExitCode
from sib_protocol.events import Priority, summarize
from sib_protocol.settings import parse_settings
from sib_server.cli import main
from sib_server.settings import ServerSettings
from sib_server.trial.arrivals import Arrival, balance, count_arrivals, live_table, text_table
from sib_server.trial.feed import (
    Feeder,
    append_as_falco,
    falco_command,
    find_falco,
    recorded_lines,
)
from sib_server.trial.layout import TrialLayout, free_port
from sib_server.trial.processes import TrialProcess, TrialProcessError, run_to_end
from sib_server.trial.trial import NotExactError, Trial


@given(st.lists(st.binary(max_size=1)), st.lists(st.binary(max_size=1)))
def test_the_balance_counts_each_line(written: list[bytes], stored: list[bytes]) -> None:
    found = balance(written, stored)
    assert found.exact is (sorted(written) == sorted(stored))
    assert found.written - found.missing + found.doubled == found.stored
    if not found.exact:
        assert NotExactError(found).exit_code is ExitCode.INCOMPLETE


def test_tables_show_the_most_severe_first_and_steer_nothing() -> None:
    counts = Counter(
        {
            Arrival("web-1", "", None, ()): 1,
            Arrival("web-1", "Read \x1b[31m", Priority.CRITICAL, ("T1003", "T1552")): 5,
            Arrival("web-1", "Other", Priority.NOTICE, ()): 2,
        }
    )
    plain = text_table(counts)
    rows = plain.splitlines()
    assert [row.split()[1] for row in rows[1:]] == ["Critical", "Notice", "unparsed"]
    out = io.StringIO()
    Console(file=out, width=120).print(live_table(counts, "8 events"))
    for text in (plain, out.getvalue()):
        assert "\x1b[31m" not in text
        assert "T1003 T1552" in text


def test_arrivals_are_counted_by_kind() -> None:
    line = recorded_lines()[0]
    event = mock.Mock(host_name="web-1", summary=summarize(line))
    assert list(count_arrivals([event, event]).values()) == [2]


def test_the_feed_writes_as_falco_does(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    append_as_falco(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    feeder = Feeder([b"two", b"three"], path)
    feeder.start()
    feeder.join(10)
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    stopped = Feeder([b"four", b"five"], path)
    stopped.stop.set()
    stopped.run()
    assert path.read_bytes().endswith(b"three\nfour\n")
    assert all(not summarize(line).unparsed for line in recorded_lines())


def test_a_falco_is_found_and_told_where_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falco = tmp_path / "falco" / "falco"
    falco.parent.mkdir()
    falco.write_text("#!/bin/sh\n")
    falco.chmod(0o755)
    monkeypatch.setenv("SIB_COMPONENTS", str(tmp_path))
    with mock.patch("os.geteuid", return_value=0):
        assert find_falco() == falco
        monkeypatch.delenv("SIB_COMPONENTS")
        monkeypatch.setenv("PATH", str(falco.parent))
        assert find_falco() == falco
        monkeypatch.setenv("PATH", "/nonexistent")
        assert find_falco() is None
    with mock.patch("os.geteuid", return_value=1000):
        assert find_falco() is None
    command = falco_command(falco, tmp_path / "events.json")
    assert command[0] == str(falco)
    assert f"file_output.filename={tmp_path / 'events.json'}" in command
    assert "file_output.keep_alive=false" in command


def test_processes_are_watched_and_ended(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    ended = TrialProcess("x", (sys.executable, "-c", "raise SystemExit('last words')"), log)
    with pytest.raises(TrialProcessError, match="x ended with 1: last words"):
        ended.wait_until(lambda: False, 20)
    ended.stop()
    sleeping = (sys.executable, "-c", "import time; time.sleep(600)")
    slow = TrialProcess("slow", sleeping, tmp_path / "slow.log")
    with pytest.raises(TrialProcessError, match="slow was not ready in 0 s"):
        slow.wait_until(lambda: False, 0.05)
    slow.wait_until(lambda: True, 1)
    slow.stop()
    ignoring = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up', flush=True)"
    deaf = TrialProcess(
        "deaf", (sys.executable, "-c", f"{ignoring}; time.sleep(600)"), tmp_path / "deaf.log"
    )
    deaf.wait_until(lambda: (tmp_path / "deaf.log").read_text() == "up\n", 20)
    with mock.patch("sib_server.trial.processes._STOP_SECONDS", 0.1):
        deaf.stop()
    assert deaf._process.returncode == -9
    with pytest.raises(TrialProcessError):
        run_to_end("y", (sys.executable, "-c", "raise SystemExit(3)"), "", tmp_path / "y.log")
    gone = TrialProcessError("z", "ended", tmp_path / "none.log")
    assert gone.problem == "z ended"


def test_settings_of_a_trial_are_valid(tmp_path: Path) -> None:
    layout = TrialLayout(tmp_path, free_port(), free_port())
    settings = parse_settings(layout.server_yaml(), ServerSettings, layout.server_settings)
    assert settings.listen.port == layout.port
    assert str(tmp_path) in layout.agent_yaml()


def test_directories_that_a_trial_does_not_touch(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    for taken in (tmp_path, tmp_path / "x"):
        done = CliRunner().invoke(main, ["try", "--exit", "--directory", str(taken)])
        assert done.exit_code == ExitCode.CONFLICT
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.timeout(120)
def test_a_whole_trial_is_exact(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["try", "--exit", "--directory", str(tmp_path / "trial")])
    assert done.exit_code == 0, done.output
    assert "each exactly once" in done.output
    assert "Critical" in done.output or "Warning" in done.output
    assert json.loads((tmp_path / "trial" / "agent" / "status.json").read_text())["lines_sent"] > 0


@pytest.mark.timeout(120)
def test_a_trial_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    with (
        mock.patch.object(Trial, "follow", side_effect=KeyboardInterrupt),
        mock.patch("sib_server.cli.trial.sys.argv", ["/x/sib-server"]),
    ):
        done = CliRunner().invoke(main, ["try", "--recorded"])
    assert done.exit_code == 0, done.output
    assert "/x/sib-agent --config" in done.output
    assert "events search --priority critical" in done.output


@pytest.mark.timeout(120)
def test_a_trial_with_a_falco_of_its_own(tmp_path: Path) -> None:
    """A program that writes where Falco was told to, as Falco would, and then ends."""
    falco = tmp_path / "falco"
    line = json.dumps({"rule": "Live", "priority": "Error", "source": "syscall"})
    falco.write_text(
        f"#!{sys.executable}\nimport sys,time\n"
        "path=[a.split('=',1)[1] for a in sys.argv if a.startswith('file_output.filename=')][0]\n"
        f"open(path,'a').write({line!r}+chr(10))\ntime.sleep(3)\n"
    )
    falco.chmod(0o755)
    layout = TrialLayout(tmp_path / "trial", free_port(), free_port())
    layout.directory.mkdir()
    shown: list[int] = []
    with Trial(layout, falco) as trial:
        assert not trial.complete
        with pytest.raises(TrialProcessError, match="falco ended"):
            trial.follow(lambda: shown.append(trial.counts.total()))
        assert [arrival.rule for arrival in trial.counts] == ["Live"]
    assert shown
    assert layout.log("falco").exists()


def test_a_trial_that_cannot_start_leaves_nothing_running(tmp_path: Path) -> None:
    layout = TrialLayout(tmp_path, free_port(), free_port())
    with (
        mock.patch("sib_server.trial.trial._READY_SECONDS", 0.0),
        mock.patch.object(Trial, "_listens", return_value=False),
        pytest.raises(TrialProcessError, match="not ready"),
        Trial(layout),
    ):
        pytest.fail("it has started")
