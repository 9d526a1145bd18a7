from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from sib_agent.renewing import Renewer, daemon_command, renew_command
from sib_protocol.identity import Identity, IdentityStore
from sib_protocol.ids import HostId, HostName

DAY = 86400


@pytest.mark.parametrize(
    ("original", "wanted"),
    [
        (["/usr/bin/python3", "-I", "-m", "sib_agent", "run"], "-I -m sib_agent renew"),
        (["py", "sib-agent", "--config", "run", "run"], "sib-agent --config run renew"),
        (["py", "sib-agent", "run", "--x"], "sib-agent renew"),
        (["py", "sib-agent"], None),
    ],
)
def test_the_command_is_the_daemon_s_own(original: list[str], wanted: str | None) -> None:
    found = renew_command(original)
    assert (None if found is None else " ".join(found[1:])) == wanted


def test_this_process_is_no_daemon() -> None:
    assert daemon_command() is None or "run" in sys.orig_argv


def identity(serial: str, issued: int = 0) -> Identity:
    return Identity(
        HostId("x"), HostName("web-1"), ("https://x",), serial, issued, issued + 7 * DAY, issued
    )


class Setting:
    def __init__(self, tmp_path: Path, script: str) -> None:
        self.store = IdentityStore(tmp_path / "identity")
        self.put(identity("1"))
        self.now = 0.0
        self.renewed: list[str] = []
        self.renewer = Renewer(
            self.store,
            (sys.executable, "-c", script),
            lambda found: self.renewed.append(found.serial),
            random.Random(1),
            clock=lambda: self.now,
            steady=lambda: self.now,
        )

    def put(self, one: Identity) -> None:
        self.store.store(one, key=b"k", certificate=b"c", ca=b"a")


def test_it_waits_for_its_time_and_backs_off_after_failures(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "import sys; sys.exit('error: no route\\n  try: this')")
    setting.renewer.step()
    assert setting.renewer.problem is None
    setting.now = 5 * DAY
    setting.renewer.step()
    assert setting.renewer.problem == "error: no route"
    log = setting.renewer._not_before
    assert 15 <= log - setting.now <= 30
    setting.renewer._command = ("/nonexistent/program",)
    setting.now += 60
    setting.renewer.step()
    assert "No such file" in str(setting.renewer.problem)
    setting.renewer._command = (sys.executable, "-c", "raise SystemExit(3)")
    setting.now += 600
    setting.renewer.step()
    assert setting.renewer.problem == "it ended with 3"
    assert setting.renewed == []


def test_a_renewed_identity_is_taken_up(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "pass")
    setting.now = 5.0 * DAY
    setting.renewer.step()
    assert (setting.renewer.problem, setting.renewed) == (None, [])
    setting.put(identity("2", 5 * DAY))
    setting.renewer.step()
    assert setting.renewed == ["2"]
    assert setting.renewer.identity.serial == "2"
    setting.renewer.step()
    assert setting.renewed == ["2"]
