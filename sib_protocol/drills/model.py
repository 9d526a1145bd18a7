"""What a drill file holds. Pure data; read by :mod:`sib_protocol.drills.parsing`."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

RULE_ID: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", re.ASCII)
"""The id of a rule: words of small letters and digits with dashes between; it never changes."""

MAX_SCRIPT_BYTES: Final = 8192
MAX_ACTS: Final = 32


class Endpoint(msgspec.Struct, frozen=True):
    """Where something listens inside the throw-away root.

    Attributes:
        address: an IPv4 address; the root's loopback takes it as its own.
        port: 1 to 65535.
        udp: a datagram socket instead of a TCP one.
    """

    address: str
    port: int
    udp: bool = False


class Act(msgspec.Struct, frozen=True):
    """Commands for ``/bin/sh`` in the throw-away root.

    Attributes:
        run: what is done and watched.
        setup: what is done before, unwatched: what it fires counts for nothing.
        contained: whether it shall look like a container (its own PID namespace) or like the
            host at work.
        needs: programs of the host without which it cannot be done.
        listen: what listens while it is done.
    """

    run: str
    setup: str = ""
    contained: bool = False
    needs: tuple[str, ...] = ()
    listen: tuple[Endpoint, ...] = ()


class Drill(msgspec.Struct, frozen=True):
    """An act that must fire its rule.

    Attributes:
        act: how it is done.
        name: what a person would call it; empty where the rule has no other drill.
        proves: ids of the techniques that it is; empty for all that the rule names.
    """

    act: Act
    name: str = ""
    proves: tuple[str, ...] = ()


class QuietCase(msgspec.Struct, frozen=True):
    """An everyday act that must not fire any rule.

    Attributes:
        name: what a person would call it.
        act: how it is done.
    """

    name: str
    act: Act


class RuleDrill(msgspec.Struct, frozen=True):
    """What stands beside one rule.

    Attributes:
        id: the rule's, for ever.
        rule: the rule's name, as in the rule file.
        false_positives: what else can fire it, a sentence each.
        drills: what must fire it, each alone; at least one.
        quiet: what must not fire anything.
        line: where in its file it begins, counted from 1.
    """

    id: str
    rule: str
    false_positives: tuple[str, ...]
    drills: tuple[Drill, ...]
    quiet: tuple[QuietCase, ...]
    line: int = 0


class DrillProblem(NamedTuple):
    """What is wrong with a drill file, and where.

    Attributes:
        path: the file.
        line: counted from 1.
        reason: one sentence.
    """

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


class Kind(Enum):
    """What an act is for."""

    DRILL = "drill"
    QUIET = "quiet"
