"""``sib-server ca``: the certificate authority."""

from __future__ import annotations

import click

from sib_protocol.console import SibGroup, print_json
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.times import iso, iso_ns
from sib_server.cli.views import authority_view, lines, server_certificate_view
from sib_server.pki.authority import Authority


@click.group(cls=SibGroup)
def ca() -> None:
    """The certificate authority that hosts and server trust."""


@ca.command()
@click.option("--name", default="SIB", show_default=True, help="The CA's name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def init(server: ServerContext, name: str, as_json: bool) -> None:
    """Make the CA and the server's certificate. Refuses where there is a CA.

    \b
    Examples:
      sib-server ca init
      sib-server ca init --name 'SIB Berlin' --json
    """
    made = Authority.create(server.settings.pki.directory, name)
    certificate = made.server_certificate(server.server_names)
    view = authority_view(made, certificate)
    if as_json:
        print_json(view)
        return
    click.echo("\n".join(lines(view)))
    click.echo(f"\nBack up {made.directory}: without it every host has to enroll again.", err=True)


@ca.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def show(server: ServerContext, as_json: bool) -> None:
    """Show the CA and the server's certificate.

    \b
    Examples:
      sib-server ca show
      sib-server ca show --json | jq -r .pin
    """
    authority = server.authority
    view = authority_view(authority, authority.installed_server_certificate())
    if as_json:
        print_json(view)
    else:
        click.echo("\n".join(lines(view)))


@ca.command("renew-server")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def renew_server(server: ServerContext, as_json: bool) -> None:
    """Make a new certificate for the server now. A running server does so by itself when due.

    \b
    Example:
      sib-server ca renew-server
    """
    view = server_certificate_view(
        server.authority.server_certificate(server.server_names, force=True)
    )
    if as_json:
        print_json(view)
    else:
        click.echo("\n".join(lines(view)))


@ca.command()
@click.argument("serial")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def revoke(server: ServerContext, serial: str, as_json: bool) -> None:
    """Revoke one certificate of a host, by its serial number in hex.

    It is refused from the next request on. To cut off the whole host, remove it instead.

    \b
    Example:
      sib-server ca revoke 3f:a2:91:c0
    """
    revoked = server.fleet.revoke_certificate(serial)
    if as_json:
        print_json(
            {
                "serial": revoked.serial,
                "host_id": revoked.host_id,
                "host_name": revoked.host_name,
                "not_after": iso(revoked.not_after),
                "revoked": iso_ns(revoked.revoked_ns),
            }
        )
    else:
        click.echo(f"Certificate {revoked.serial} of host {revoked.host_name} is revoked.")
