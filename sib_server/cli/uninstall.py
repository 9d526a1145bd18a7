"""``sib-server uninstall``."""

from __future__ import annotations

import os
from contextlib import suppress

import click

from sib_protocol.console import print_json
from sib_protocol.errors import SibError
from sib_protocol.removal import carry_out, find_installed, find_manager, plan_removal
from sib_protocol.units import booted
from sib_server.cli.context import ServerContext, pass_server
from sib_server.operations.removal import PACKAGES, TARGET, own_paths


@click.command()
@click.option("--purge", is_flag=True, help="CA, state, events, logs, metrics, secrets, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print it as JSON.")
@pass_server
def uninstall(
    server: ServerContext, *, purge: bool, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Stop the server with its stores, and remove their packages.

    Without --purge everything that they stored stays: whoever installs again goes on where it
    ended. With it every host has to enroll again with another server; a backup first brings it
    all back. An agent on this machine stays.

    \b
    Examples:
      sudo sib-server uninstall --dry-run
      sudo sib-server uninstall --purge --yes
    """
    paths = own_paths(server.settings, server.settings_file)
    removal = plan_removal(
        [path for path in paths if os.path.lexists(path)],
        target=TARGET,
        purge=purge,
        booted=booted(),
        manager=find_manager(),
        installed=find_installed(PACKAGES),
    )
    if as_json and dry_run:
        print_json({"steps": removal.lines()})
        return
    for line in removal.lines():
        click.echo(line)
    if not removal.lines():
        click.echo("nothing of SIB's server is installed here")
        return
    if purge:
        _warn(server)
    if dry_run:
        return
    if not yes:
        click.confirm("Go on?", abort=True)
    carry_out(removal)
    click.echo("removed")


def _warn(server: ServerContext) -> None:
    with suppress(SibError):
        hosts = len(server.fleet.hosts())
        if hosts:
            click.secho(f"{hosts} hosts lose their server for good", fg="yellow")
    click.echo("what could bring it back: 'sib-server backup FILE --journal', before")
