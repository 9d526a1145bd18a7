"""``sib-server token``: enrollment tokens."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from sib_protocol.console import SibGroup, print_json, print_table
from sib_protocol.tokens import EnrollmentToken
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.parameters import DURATION
from sib_server.cli.views import token_view

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(cls=SibGroup)
def token() -> None:
    """Enrollment tokens: what a host needs to join."""


@token.command()
@click.option(
    "--ttl",
    type=DURATION,
    default="30m",
    show_default=True,
    help="How long it is good for: 90s, 30m, 12h, 7d.",
)
@click.option("--uses", default=1, show_default=True, help="How many hosts it may enroll.")
@click.option("--tag", "tags", multiple=True, help="A tag for those hosts; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def create(
    server: ServerContext, ttl: timedelta, uses: int, tags: Sequence[str], as_json: bool
) -> None:
    """Make a token and print the line to paste on the host.

    The token is shown this once. It carries the CA's pin, so the host knows its server from the
    first contact on.

    \b
    Examples:
      sib-server token create
      sib-server token create --ttl 7d --uses 50 --tag web --tag eu
      sib-server token create --json | jq -r .token
    """
    # The CA goes first: without one, no token is made that could not be used.
    pin = server.authority.pin
    made = server.tokens.create(ttl=ttl, uses=uses, tags=tags)
    text = EnrollmentToken(
        servers=server.server_urls, pin=pin, id=made.record.id, secret=made.secret
    ).text()
    view = token_view(made.record, made.record.created_ns)
    if as_json:
        print_json({"id": view.pop("id"), "token": text, **view})
        return
    click.echo("On the host, paste this line:\n", err=True)
    click.echo(f"echo '{text}' | sudo sib-agent enroll")
    click.echo(f"\nGood for {uses} host(s) until {view['expires']}.", err=True)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def list_(server: ServerContext, as_json: bool) -> None:
    """List tokens, the newest first; those dead for 30 days are forgotten.

    \b
    Examples:
      sib-server token list
      sib-server token list --json
    """
    views = [token_view(item, time.time_ns()) for item in server.tokens.list()]
    if as_json:
        print_json(views)
        return
    print_table(
        ("id", "state", "expires", "uses left", "tags"),
        [
            (
                view["id"],
                view["state"],
                view["expires"],
                f"{view['uses_left']} of {view['uses']}",
                ",".join(view["tags"]) or "-",
            )
            for view in views
        ],
    )


@token.command()
@click.argument("token_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def revoke(server: ServerContext, token_id: str, as_json: bool) -> None:
    """Take a token back. Hosts that it enrolled stay.

    \b
    Example:
      sib-server token revoke 0123456789abcdef
    """
    record = server.tokens.revoke(token_id)
    if as_json:
        print_json(token_view(record, time.time_ns()))
    else:
        click.echo(f"Token {record.id} is revoked.")
