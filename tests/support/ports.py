"""Ports that nobody else takes meanwhile."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_BELOW_EPHEMERAL = range(10_000, 32_000)


def free_port() -> int:
    """A free TCP port on loopback, outside those that connections get.

    A program under test that is restarted frees its port for a moment: one of the kernel's choice
    would then be given to whoever connects to anything.
    """
    draw = random.SystemRandom()
    for _ in range(1_000):
        port = draw.choice(_BELOW_EPHEMERAL)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")
