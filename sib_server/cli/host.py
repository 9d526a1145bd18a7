"""``sib-server host``: the enrolled hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sib_protocol.console import SibGroup, print_json, print_table, printable
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.views import host_details, host_view, lines
from sib_server.fleet.health import HealthState

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(cls=SibGroup)
def host() -> None:
    """The hosts of the fleet."""


@host.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in HealthState]),
    help="Only hosts in this state; may be repeated.",
)
@click.option("--tag", "tags", multiple=True, help="Only hosts with this tag; may be repeated.")
@click.option("--removed", is_flag=True, help="Also those that were removed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def list_(
    server: ServerContext,
    states: Sequence[str],
    tags: Sequence[str],
    removed: bool,
    as_json: bool,
) -> None:
    """List hosts by name.

    \b
    Examples:
      sib-server host list
      sib-server host list --state silent --state late
      sib-server host list --tag web --json
    """
    views = [
        host_view(record, server.fleet.state_of(record))
        for record in server.fleet.hosts(removed=removed)
    ]
    chosen = [
        view
        for view in views
        if (not states or view["state"] in states) and set(tags) <= set(view["tags"])
    ]
    if as_json:
        print_json(chosen)
        return
    print_table(
        ("name", "state", "last seen", "version", "address", "tags", "id"),
        [
            (
                view["name"],
                view["state"],
                view["last_seen"] or "-",
                view["version"] or "-",
                view["address"] or "-",
                ",".join(view["tags"]) or "-",
                view["id"],
            )
            for view in chosen
        ],
    )


@host.command()
@click.argument("reference", metavar="HOST")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def show(server: ServerContext, reference: str, as_json: bool) -> None:
    """Show a host, by name or id, with its last health report.

    \b
    Examples:
      sib-server host show web-1
      sib-server host show web-1 --json | jq .health.spool
    """
    record = server.fleet.host(reference)
    view = host_details(record, server.fleet.state_of(record))
    if as_json:
        print_json(view)
    else:
        click.echo("\n".join(map(printable, lines(view))))


@host.command()
@click.argument("reference", metavar="HOST")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def remove(server: ServerContext, reference: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove a host, by name or id: all its certificates are revoked, its name is free again.

    It is refused from its next request on. Its events stay.

    \b
    Examples:
      sib-server host remove web-1
      sib-server host remove web-1 --dry-run
      sib-server host remove 5f0c6f0e-6b6e-4f2f-9d3a-3f1f5d3c8a11 --yes --json
    """
    planned = server.fleet.remove_host(reference, dry_run=True)
    what = f"{planned.host.name} ({planned.host.id}), {planned.revoked} certificate(s) to revoke"
    if not dry_run and not yes:
        click.confirm(f"Remove host {what}?", abort=True, err=True)
    # By its id: between question and answer the name may have gone to another host.
    done = planned if dry_run else server.fleet.remove_host(planned.host.id)
    if as_json:
        print_json(
            {
                "id": done.host.id,
                "name": done.host.name,
                "revoked_certificates": done.revoked,
                "removed": not dry_run,
            }
        )
    elif dry_run:
        click.echo(f"Would remove host {what}.")
    else:
        click.echo(f"Host {done.host.name} is removed; {done.revoked} certificate(s) revoked.")
