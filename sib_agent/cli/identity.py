"""``sib-agent enroll``, ``renew`` and ``unenroll``."""

from __future__ import annotations

import shutil
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sib_agent.cli.context import pass_settings
from sib_agent.settings import AgentSettings
from sib_protocol.console import print_json
from sib_protocol.errors import FileAccessError
from sib_protocol.identity import IdentityStore, NotEnrolledError
from sib_protocol.ids import parse_host_name
from sib_protocol.tokens import EnrollmentToken, TokenFormatError
from sib_protocol.units import booted

if TYPE_CHECKING:
    from sib_protocol.identity import Identity

_MAX_TOKEN_FILE = 8192


def _describe(identity: Identity) -> dict[str, object]:
    end = datetime.fromtimestamp(identity.not_after, tz=timezone.utc)
    return {
        "host_id": identity.host_id,
        "host_name": identity.host_name,
        "servers": list(identity.servers),
        "certificate": {"serial": identity.serial, "not_after": end.isoformat()},
    }


def _read_token(token_file: Path | None) -> EnrollmentToken:
    if token_file is not None:
        try:
            with token_file.open(encoding="utf-8", errors="replace") as opened:
                text = opened.read(_MAX_TOKEN_FILE)
        except OSError as error:
            raise FileAccessError(token_file, error.strerror or str(error)) from error
    elif sys.stdin.isatty():
        text = click.prompt("Token (from 'sib-server token create')", hide_input=True, err=True)
    else:
        text = sys.stdin.read(_MAX_TOKEN_FILE)
    if not text.strip():
        raise TokenFormatError("nothing was given")
    return EnrollmentToken.parse(text)


def _next_step(*, again: bool) -> str:
    if not booted():
        return "next: sib-agent setup, then sib-agent run"
    if again:
        return "next: sudo systemctl restart sib-agent, then sudo sib-agent doctor"
    return "Falco, Alloy and the agent start by themselves; in a moment: sudo sib-agent doctor"


@click.command()
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Read the token from a file instead of standard input.",
)
@click.option("--name", help="What the host shall be called. [default: its host name]")
@click.option("--force", is_flag=True, help="Give up the identity that this host has.")
@click.option("--json", "as_json", is_flag=True, help="Print the identity as JSON.")
@pass_settings
def enroll(
    settings: AgentSettings,
    token_file: Path | None,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Join a server, with a token from it.

    The token comes by standard input, so that it is in no process list. It pins the server's CA:
    whoever else answers at its address gets nothing.

    \b
    Examples:
      echo 'sib1.…' | sudo sib-agent enroll
      sudo sib-agent enroll --name web-1 --token-file /run/token
    """
    from sib_agent import enrollment  # noqa: PLC0415  (cryptography; only here is it needed)

    host_name = parse_host_name(name or socket.gethostname())
    store = IdentityStore(settings.identity.directory)
    if not force:
        try:
            known = store.load()
        except NotEnrolledError:
            pass
        else:
            raise enrollment.AlreadyEnrolledError(known)
    identity = enrollment.enroll(_read_token(token_file), host_name, store)
    if as_json:
        print_json(_describe(identity))
    else:
        click.echo(f"enrolled as {identity.host_name} ({identity.host_id})")
        click.echo(_next_step(again=force))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the identity as JSON.")
@pass_settings
def renew(settings: AgentSettings, as_json: bool) -> None:
    """Get the next certificate now. The daemon does it by itself; this is for when it could not.

    It works for a while after the certificate has ended, too.

    \b
    Example:
      sudo sib-agent renew
    """
    from sib_agent import enrollment  # noqa: PLC0415  (cryptography; only here is it needed)

    identity = enrollment.renew(IdentityStore(settings.identity.directory))
    if as_json:
        print_json(_describe(identity))
    else:
        end = datetime.fromtimestamp(identity.not_after, tz=timezone.utc)
        click.echo(f"renewed until {end:%Y-%m-%d %H:%M} UTC")


@click.command()
@click.option("--spool", is_flag=True, help="Remove the spool with its unsent lines, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@pass_settings
def unenroll(settings: AgentSettings, spool: bool, yes: bool, dry_run: bool) -> None:
    """Forget this host's identity.

    The server keeps the host in its list until it is removed there: a host that could remove
    itself could hide.

    \b
    Examples:
      sudo systemctl stop sib-agent && sudo sib-agent unenroll
      sudo sib-agent unenroll --dry-run
    """
    store = IdentityStore(settings.identity.directory)
    identity = store.load()
    directory = settings.spool.directory
    click.echo(f"identity of {identity.host_name} ({identity.host_id}) in {store.directory}")
    if spool:
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        click.echo(f"spool in {directory}, {size} bytes")
    if dry_run:
        return
    if not yes:
        click.confirm("Remove?", abort=True)
    store.remove()
    if spool and directory.exists():
        shutil.rmtree(directory)
    click.echo(f"removed; on the server: sib-server host remove {identity.host_name}")
