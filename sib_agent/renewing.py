"""When the daemon renews its certificate, and how: in a process of its own.

``cryptography`` takes a third of the daemon's memory and is needed for a second a week.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from sib_protocol.backoff import Backoff
from sib_protocol.renewal import renewal_due

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from sib_protocol.identity import Identity, IdentityStore

_log: Final = logging.getLogger(__name__)
_RENEW_SECONDS: Final = 120.0


def sibling_command(original: Sequence[str], command: str) -> tuple[str, ...] | None:
    """The command line of another command for the daemon that was started with ``original``.

    Args:
        original: ``sys.orig_argv`` of the daemon: the interpreter, its options, and what it runs,
            ending with ``run`` and that command's options.
        command: the other command's name.

    Returns:
        The same interpreter, options and settings with that command in place of ``run``; ``None``
        where there is no ``run``.
    """
    if "run" not in original:
        return None
    last = len(original) - 1 - list(reversed(original)).index("run")
    return (*original[:last], command)


def renew_command(original: Sequence[str]) -> tuple[str, ...] | None:
    """:func:`sibling_command` for ``renew``."""
    return sibling_command(original, "renew")


class Renewer:
    """Renews the identity in time. For one thread.

    Args:
        store: the identity's.
        command: see :func:`renew_command`.
        on_renewed: called when another certificate is in force.
        draw: the source of jitter.
        clock: seconds since 1970 UTC.
        steady: seconds, monotonic.
    """

    def __init__(
        self,
        store: IdentityStore,
        command: Sequence[str],
        on_renewed: Callable[[Identity], None],
        draw: random.Random,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._command = tuple(command)
        self._on_renewed = on_renewed
        self._draw = draw
        self._clock = clock
        self._steady = steady
        self._jitter = draw.random()
        self._backoff = Backoff(first=30.0, longest=3600.0)
        self._not_before = 0.0
        self._asked = False
        self.identity = store.load()
        self.problem: str | None = None

    def ask(self) -> None:
        """Renew at the next step, whatever the clock says: the server may take it for expired."""
        self._asked = True

    def step(self) -> None:
        """Take up what another process renewed, and renew if it is time."""
        self._take_up(self._store.load())
        identity = self.identity
        due = self._asked or renewal_due(
            identity.not_before,
            identity.not_after,
            self._clock(),
            self._jitter,
            received=identity.issued,
        )
        if not due or self._steady() < self._not_before:
            return
        self.problem = self._renew()
        if self.problem is None:
            self._backoff = self._backoff.succeeded()
            self._take_up(self._store.load())
        else:
            _log.warning("cannot renew the certificate: %s", self.problem)
            self._backoff = self._backoff.failed()
            self._not_before = self._steady() + self._backoff.wait(self._draw)

    def _take_up(self, found: Identity) -> None:
        if found.serial != self.identity.serial:
            self.identity = found
            self._asked = False
            self._jitter = self._draw.random()
            _log.info("certificate renewed", extra={"fields": {"serial": found.serial}})
            self._on_renewed(found)

    def _renew(self) -> str | None:
        """What went wrong, or ``None``."""
        try:
            done = subprocess.run(
                self._command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_RENEW_SECONDS,
                check=False,
                text=True,
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode == 0:
            return None
        return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0][:300]


def daemon_command() -> tuple[str, ...] | None:
    """:func:`renew_command` for this process."""
    return renew_command(sys.orig_argv)
