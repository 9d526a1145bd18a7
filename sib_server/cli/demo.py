"""``sib-server demo``."""

from __future__ import annotations

import secrets

import click

from sib_protocol.console import print_json
from sib_protocol.errors import ExitCode
from sib_server.cli.context import ServerContext, pass_server


@click.command()
@click.option("--quick", is_flag=True, help="One rule a tactic.")
@click.option("--remove", "removing", is_flag=True, help="Take all demo hosts and events away.")
@click.option("--seed", type=int, help="Draw the same events again.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@pass_server
def demo(
    server: ServerContext, quick: bool, removing: bool, seed: int | None, as_json: bool
) -> None:
    """Send events as misused hosts would, over all tactics, to see SIB at work.

    Four hosts that do not exist enroll and send what this server's rules would say of them, through
    the real ingest. The events carry the tag sib_demo, are found and drawn like any others, and
    never reach Falcosidekick: nobody is woken up. The server has to run.

    \b
    Examples:
      sudo sib-server demo --quick
      sudo sib-server demo && sib-server events search --host sib-demo-web-1
      sudo sib-server demo --remove
    """
    from sib_server.demo import demo as work  # noqa: PLC0415  (rules and TLS)

    if removing:
        gone = work.remove(server)
        if as_json:
            print_json({"hosts": gone.hosts, "events": gone.events, "loki": gone.loki})
        else:
            click.echo(f"{gone.events} demo events and {len(gone.hosts)} demo hosts removed")
            if gone.loki == "removed":
                click.echo("Loki was asked to delete its copies; it does so within a day")
            elif gone.loki != "off":
                click.echo(f"Loki keeps its copies: {gone.loki}", err=True)
        if gone.loki not in {"removed", "off"}:
            raise SystemExit(ExitCode.INCOMPLETE)
        return
    sent = work.send(server, only_quick=quick, seed=secrets.randbits(32) if seed is None else seed)
    total = sum(sent.events.values())
    if as_json:
        print_json(
            {"events": total, "hosts": sent.events, "rules": sent.rules, "tactics": sent.tactics}
        )
        return
    click.echo(
        f"{total} demo events of {sent.rules} rules over {len(sent.tactics)} tactics,"
        f" from {len(sent.events)} demo hosts"
    )
    click.echo("Look: sib-server events search --host sib-demo-web-1")
    click.echo("Away again: sib-server demo --remove")
