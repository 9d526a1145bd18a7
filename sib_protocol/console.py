"""What the commands of both sides share: how errors, tables and JSON are shown.

Only the command line imports this.
"""

from __future__ import annotations

import errno
import importlib
import os
import pwd
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.exceptions import NoSuchCommand

from sib_protocol.checks import Verdict, summary
from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from sib_protocol.checks import Finding

# Longer than any command's first sentence.
_SENTENCE: Final = 200
_VERDICT_COLOURS: Final = {
    Verdict.WELL: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "red",
    Verdict.SKIPPED: "blue",
}


def printable(text: str) -> str:
    """A text without what could steer a terminal: hosts and events choose what they say."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def show_error(problem: str, remedy: str | None = None) -> None:
    """Say on stderr what is wrong and what to do."""
    click.echo(f"error: {printable(problem)}", err=True)
    if remedy:
        click.echo(f"  try: {printable(remedy)}", err=True)


class SibGroup(click.Group):
    """A root command group under which no error that a person can act on is a traceback.

    Args:
        lazy: command name -> ``module:attribute``; imported when it is first asked for, because
            what one command needs should not slow down the others.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, imported or not."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One command, imported now if it was not before."""
        place = self._lazy.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The named command; where there is none, the error names those it may have meant."""
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            # Click looks among those that were imported.
            known = self.list_commands(ctx)
            raise NoSuchCommand(error.command_name, possibilities=known, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """All commands with the first sentence of their help, which click cuts to one line."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_SENTENCE))
            for name, command in found
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors into two lines and an exit code."""
        try:
            return super().invoke(ctx)
        except SibError as error:
            show_error(error.problem, error.remedy)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:
                # The reader of our output has left; click ends quietly.
                raise
            where = f"{error.filename}: " if error.filename else ""
            show_error(f"{where}{error.strerror or error}", _for_whom_it_is_closed(error))
            ctx.exit(ExitCode.FILE_ACCESS if error.filename else ExitCode.FAILURE)


def _for_whom_it_is_closed(error: OSError) -> str | None:
    """What to do about a missing permission; packages' programs do not run as who calls them."""
    number = os.geteuid()
    if error.errno not in {errno.EACCES, errno.EPERM} or number == 0:
        return None
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:
        user = str(number)
    return f"the user {user} may not do that: use sudo, or a place that is open to {user}"


def print_json(value: Any) -> None:
    """One JSON value on stdout, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_json_line(value: Any) -> None:
    """One JSON value on a line of stdout, for many of them."""
    click.echo(msgspec.json.encode(value).decode())


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces; the last one is not padded."""
    cells = [list(columns), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A drawn table on a terminal, a plain one elsewhere."""
    if not sys.stdout.isatty():
        click.echo(plain_table([column.upper() for column in columns], rows))
        return
    # Here, because it takes longer to import than most commands run.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """What checks found: a line each, what to do below it, and a count at the end."""
    widths = [
        max((len(text) for text in column), default=0)
        for column in (
            [finding.verdict.value for finding in findings],
            [printable(finding.check) for finding in findings],
        )
    ]
    for finding in findings:
        verdict = click.style(
            finding.verdict.value.ljust(widths[0]), fg=_VERDICT_COLOURS[finding.verdict]
        )
        check = printable(finding.check).ljust(widths[1])
        click.echo(f"{verdict}  {check}  {printable(finding.problem)}")
        if finding.remedy:
            click.echo(f"{'':{sum(widths) + 4}}try: {printable(finding.remedy)}")
    click.echo(summary(findings))
