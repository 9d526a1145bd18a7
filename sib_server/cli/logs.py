"""``sib-server logs``: what the server and its stores say, merged."""

from __future__ import annotations

import os

import click

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.journalctl import PROGRAM, journalctl
from sib_server.cli.times import MOMENT
from sib_server.operations.units import UNITS

_LINES = 200


class NoJournalctlError(SibError):
    """This machine keeps no journal of systemd's."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self) -> None:
        super().__init__(
            f"there is no {PROGRAM} here", "where systemd does not run, logs go to stderr alone"
        )


@click.command()
@click.argument("components", nargs=-1, type=click.Choice(list(UNITS)), metavar="[COMPONENT]...")
@click.option("-f", "--follow", is_flag=True, help="Go on as records come.")
@click.option("--since", type=MOMENT, help="At or after: 1h (ago), ISO time.")
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
    """Show the logs of the server and its stores, merged by time.

    COMPONENT is server, loki, prometheus, grafana, falcosidekick, setup or disk-guard; without
    one, all. Systemd's journal shows them to root and to the groups adm and systemd-journal.

    \b
    Examples:
      sib-server logs -f
      sib-server logs loki server --since 1h
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
