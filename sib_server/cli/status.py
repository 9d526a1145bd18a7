"""``sib-server status``."""

from __future__ import annotations

from collections import Counter
from typing import Final

import click

from sib_protocol.console import print_json, printable
from sib_protocol.errors import ExitCode
from sib_server.cli.context import ServerContext, pass_server
from sib_server.standing import ServerStanding, Standing, judge, look, now

_COLOURS: Final = {Standing.WELL: "green", Standing.TROUBLED: "yellow", Standing.STOPPED: "red"}


def _print(standing: ServerStanding) -> None:
    hosts = ", ".join(f"{count} {state}" for state, count in sorted(standing.hosts.items()))
    click.echo("state        " + click.style(standing.state.value, fg=_COLOURS[standing.state]))
    click.echo(f"hosts        {hosts or 'none'}")
    click.echo(f"journal      {standing.events} events")
    for sink in standing.sinks:
        done = "" if sink.delivered is None else f", {sink.delivered} delivered since the start"
        click.echo(f"sink {sink.name:<8}{sink.lag_events} behind, {sink.lag_seconds:.0f} s{done}")
    for unit in standing.units:
        again = f", restarted {unit.restarts} times" if unit.restarts else ""
        click.echo(f"unit {unit.component:<14} {unit.active} ({unit.detail}){again}")
    for store in standing.stores:
        click.echo(f"store {store.name:<13} {'ready' if store.ready else printable(store.answer)}")
    if standing.connections is not None:
        click.echo(f"connections  {standing.connections}")
    if standing.certificate_not_after is not None:
        days = (standing.certificate_not_after - now()) / 86400
        click.echo(f"certificate  {days:.1f} days left")
    click.echo(f"CA           {(standing.ca_not_after - now()) / 86400:.0f} days left")
    for problem in standing.problems:
        click.echo(f"! {printable(problem)}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_server
def status(server: ServerContext, as_json: bool) -> None:
    """Say how this server is. Leaves with 0 when all is well, else with 11.

    \b
    Examples:
      sib-server status
      sib-server status --json | jq .sinks
    """
    hosts = Counter(server.fleet.state_of(host) for host in server.fleet.hosts())
    settings = server.settings
    sinks = [
        name
        for name, sink in (
            ("loki", settings.sinks.loki),
            ("falcosidekick", settings.sinks.falcosidekick),
        )
        if sink.enabled
    ]
    standing = judge(look(settings, server.authority, hosts, sinks), now())
    if as_json:
        print_json(standing)
    else:
        _print(standing)
    if standing.state is not Standing.WELL:
        raise SystemExit(ExitCode.INCOMPLETE)
