"""How an event is known to come from a drill, since Falco sees the whole machine. Pure.

Every process of an act carries a mark in its environment, and Falco is told to add that variable
to its alerts (``append_output`` with ``proc.env[SIB_DRILL]``). A mark only ties an event to a
drill; nothing is ever silenced by it, because an intruder can set a variable, too.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

import msgspec

from sib_protocol.errors import UNDECODABLE

VARIABLE: Final = "SIB_DRILL"
FIELD: Final = f"proc.env[{VARIABLE}]"
"""What Falco calls the variable of the process that fired."""

_MARK: Final = re.compile(r"([0-9a-f]{12})/([0-9]{1,6})(/setup)?", re.ASCII)


class Mark(msgspec.Struct, frozen=True):
    """What one act is known by.

    Attributes:
        run: random, one for all acts of a run.
        number: the act's place in the run.
        setup: it is the preparation, whose events count for nothing.
    """

    run: str
    number: int
    setup: bool = False

    def __str__(self) -> str:
        return f"{self.run}/{self.number}{'/setup' if self.setup else ''}"

    def for_setup(self) -> Mark:
        """The same act's preparation."""
        return Mark(self.run, self.number, True)


def new_run() -> str:
    """A name for a run that nobody can guess."""
    return secrets.token_hex(6)


def parse_mark(text: str) -> Mark | None:
    """Read a mark; ``None`` where the text is none."""
    match = _MARK.fullmatch(text)
    return Mark(match[1], int(match[2]), bool(match[3])) if match else None


class Alert(msgspec.Struct):
    """What of a Falco alert is needed to tie it to an act."""

    rule: str = ""
    time: str = ""
    output: str = ""
    priority: str = ""
    output_fields: dict[str, Any] = {}

    @property
    def mark(self) -> Mark | None:
        """The act that it comes from."""
        value = self.output_fields.get(FIELD)
        return parse_mark(value) if isinstance(value, str) else None


_decoder: Final = msgspec.json.Decoder(Alert)


def parse_alert(line: bytes) -> Alert | None:
    """Read one line that Falco wrote; ``None`` where it is no alert."""
    try:
        return _decoder.decode(line)
    except UNDECODABLE:
        return None
