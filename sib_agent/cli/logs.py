"""``sib-agent logs``: what the agent, Falco and Alloy say, merged."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import click

from sib_agent.setup.units import UNITS
from sib_protocol.errors import ExitCode, SibError
from sib_protocol.journalctl import PROGRAM, journalctl

_LINES = 200
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class NoJournalctlError(SibError):
    """This host keeps no journal of systemd's."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self) -> None:
        super().__init__(
            f"there is no {PROGRAM} here", "where systemd does not run, logs go to stderr alone"
        )


class AgoType(click.ParamType[int]):
    """So long ago; the value is in nanoseconds since 1970 UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read ``90s``, ``30m``, ``1h``, ``2d`` or ``1w``."""
        match = re.fullmatch(r"(\d{1,6})([smhdw])", str(value), re.ASCII)
        if match is None:
            self.fail(f"{str(value)[:80]!r} is not a time; write 30m, 1h or 2d (ago)", param, ctx)
        return time.time_ns() - int(match[1]) * _SECONDS[match[2]] * 1_000_000_000


@click.command()
@click.argument("components", nargs=-1, type=click.Choice(list(UNITS)), metavar="[COMPONENT]...")
@click.option("-f", "--follow", is_flag=True, help="Go on as records come.")
@click.option("--since", type=AgoType(), help="From so long ago on: 30m, 1h, 2d.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=1),
    help=f"Only the newest so many. [default: {_LINES}; with --since all]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, every field.")
def logs(
    components: tuple[str, ...],
    follow: bool,
    since: int | None,
    lines: int | None,
    as_json: bool,
) -> None:
    """Show the logs of the agent, Falco and Alloy, merged by time.

    COMPONENT is agent, falco, alloy, setup or reload; without one, all. Systemd's journal shows
    them to root and to the groups adm and systemd-journal.

    \b
    Examples:
      sudo sib-agent logs -f
      sudo sib-agent logs falco --since 1h
    """
    if lines is None and since is None:
        lines = _LINES
    command = journalctl(
        [UNITS[component] for component in components or UNITS],
        follow=follow,
        since_ns=since,
        lines=lines,
        as_json=as_json,
    )
    try:
        os.execv(command[0], command)  # noqa: S606  (a program's whole path, and no shell)
    except FileNotFoundError as error:
        raise NoJournalctlError from error
