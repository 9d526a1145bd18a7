"""Telling systemd how a daemon is: READY, STATUS, WATCHDOG, RELOADING, STOPPING."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import sdnotify

if TYPE_CHECKING:
    from collections.abc import Mapping


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float | None:
    """How often to ping the watchdog, seconds: half of what systemd allows; ``None`` without one.

    Args:
        environment: ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked at.
        pid: this process.
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    try:
        allowed = int(environment["WATCHDOG_USEC"])
    except (KeyError, ValueError):
        return None
    return allowed / 2_000_000 if allowed > 0 else None


class Supervisor:
    """systemd, or nobody: without ``NOTIFY_SOCKET`` every call does nothing."""

    def __init__(self) -> None:
        # Without an address sdnotify opens a socket all the same, and forgets it.
        self._notifier = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        self._status = ""
        self.watchdog_seconds = watchdog_interval(os.environ, os.getpid())

    def ready(self, status: str) -> None:
        """The daemon serves."""
        self._status = status
        self._notify(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``; sent only when it changes."""
        if status != self._status:
            self._status = status
            self._notify(f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """The daemon re-reads its settings; :meth:`ready` ends it."""
        # Type=notify-reload wants the instant, to tell an old READY from a new one.
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon goes down."""
        self._notify("STOPPING=1")

    def alive(self) -> None:
        """The daemon works; to be called every :attr:`watchdog_seconds`."""
        self._notify("WATCHDOG=1")

    def _notify(self, message: str) -> None:
        if self._notifier is not None:
            self._notifier.notify(message)


def _line(text: str) -> str:
    return text.replace("\n", " ")
