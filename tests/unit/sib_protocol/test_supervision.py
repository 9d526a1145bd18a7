from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sib_protocol.supervision import Supervisor, watchdog_interval


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_the_watchdog_is_pinged_twice_in_its_time(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_interval(environment, 7) == seconds


def test_systemd_hears_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        supervisor = Supervisor()
        assert supervisor.watchdog_seconds == 1.0
        supervisor.ready("well\nand good")
        supervisor.status("well\nand good")
        supervisor.status("worse")
        supervisor.reloading()
        supervisor.alive()
        supervisor.stopping()
        heard = [listening.recv(1000).decode() for _ in range(5)]
        assert supervisor._notifier is not None
        supervisor._notifier.socket.close()  # sdnotify has no way to close it
    assert heard[0] == "READY=1\nSTATUS=well and good"
    assert heard[1] == "STATUS=worse"
    assert heard[2].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[3:] == ["WATCHDOG=1", "STOPPING=1"]


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    supervisor = Supervisor()
    supervisor.ready("x")
    supervisor.alive()
    assert supervisor.watchdog_seconds is None
