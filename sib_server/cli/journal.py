"""``sib-server journal``: look over the journal's file, and save what is whole of a damaged one."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from sib_protocol.console import SibGroup
from sib_protocol.errors import ExitCode
from sib_server.events.integrity import verify
from sib_server.events.salvage import salvage


@click.group(cls=SibGroup)
def journal() -> None:
    """Look over the journal's file."""


@journal.command("verify")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Another journal than the server's.",
)
@click.pass_context
def verify_command(ctx: click.Context, as_json: bool, path: Path | None) -> None:
    """Read every row and compare its checksum; exit code 10 when anything is damaged.

    \b
    Example:
      sib-server journal verify
    """
    path = path or ctx.obj.settings.journal.path
    report = verify(path)
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(report), "whole": report.whole}))
    else:
        click.echo(f"{report.events} events are whole, {report.damaged_events} are damaged.")
        for damage in report.damage:
            click.echo(f"  event {damage.first}: {damage.reason}")
        for problem in report.structure:
            click.echo(f"  {problem}")
        if not report.whole:
            click.echo(
                f"Stop the server and run: sib-server journal salvage {path} <new file>", err=True
            )
    if not report.whole:
        ctx.exit(ExitCode.DAMAGED)


@journal.command("salvage")
@click.argument("damaged", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("fresh", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def salvage_command(damaged: Path, fresh: Path, as_json: bool) -> None:
    """Bring every whole event of DAMAGED into FRESH, which must not exist yet.

    Stop the server first. DAMAGED is not changed; put FRESH in its place afterwards.

    \b
    Example:
      sib-server journal salvage /var/lib/sib-server/journal/journal.db /tmp/saved.db
    """
    report = salvage(damaged, fresh)
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    click.echo(
        f"{report.events} events are in {fresh}, {report.carved} of them found only in raw pages; "
        f"{report.streams} streams and {report.cursors} cursors are kept."
    )
    if not report.identity_kept:
        click.echo("The journal's own id was lost: it has a new one.", err=True)
