"""``sib-agent uninstall``."""

from __future__ import annotations

import os
from contextlib import suppress

import click

from sib_agent.cli.context import pass_settings
from sib_agent.removal import PACKAGES, own_paths
from sib_agent.settings import AgentSettings
from sib_agent.setup.units import TARGET
from sib_agent.standing import load_snapshot
from sib_protocol.console import print_json
from sib_protocol.errors import SibError
from sib_protocol.identity import IdentityStore
from sib_protocol.removal import carry_out, find_installed, find_manager, plan_removal
from sib_protocol.units import booted


def _warn(settings: AgentSettings, *, purge: bool) -> None:
    with suppress(SibError):
        identity = IdentityStore(settings.identity.directory).load()
        click.echo(f"on the server, afterwards: sib-server host remove {identity.host_name}")
    with suppress(SibError):
        snapshot = load_snapshot(settings.status.file)
        spool = snapshot.report.spool if snapshot else None
        if purge and spool is not None and spool.next > spool.acknowledged:
            lost = spool.next - spool.acknowledged
            click.secho(f"{lost} events that the server does not have go, too", fg="yellow")


@click.command()
@click.option("--purge", is_flag=True, help="Settings, identity, spool and state, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print it as JSON.")
@pass_settings
def uninstall(
    settings: AgentSettings, *, purge: bool, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Stop SIB on this host and remove its packages.

    Without --purge the settings, the identity and the spool stay: whoever installs again goes on
    where it ended. The server keeps the host in its list until it is removed there.

    \b
    Examples:
      sudo sib-agent uninstall --dry-run
      sudo sib-agent uninstall --purge --yes
    """
    removal = plan_removal(
        [path for path in own_paths(settings) if os.path.lexists(path)],
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
        click.echo("nothing of SIB is installed here")
        return
    _warn(settings, purge=purge)
    if dry_run:
        return
    if not yes:
        click.confirm("Go on?", abort=True)
    carry_out(removal)
    click.echo("removed")
