"""The command ``sib-server``: one module a noun, no logic in them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import click

from sib_protocol import __version__
from sib_protocol.console import SibGroup
from sib_server.cli.context import ServerContext
from sib_server.settings import DEFAULT_PATH
from sib_server.settings_files import load_server_settings

_COMMANDS: Final = {
    "backup": "sib_server.cli.backup:backup",
    "backup-key": "sib_server.cli.backup:backup_key",
    "bundle": "sib_server.cli.bundle:bundle",
    "ca": "sib_server.cli.ca:ca",
    "demo": "sib_server.cli.demo:demo",
    "disk-guard": "sib_server.cli.disk_guard:disk_guard",
    "doctor": "sib_server.cli.doctor:doctor",
    "events": "sib_server.cli.events:events",
    "host": "sib_server.cli.host:host",
    "intel": "sib_server.cli.intel:intel",
    "journal": "sib_server.cli.journal:journal",
    "logs": "sib_server.cli.logs:logs",
    "restore": "sib_server.cli.backup:restore",
    "rules": "sib_server.cli.rules:rules",
    "serve": "sib_server.cli.serve:serve",
    "setup": "sib_server.cli.setup:setup",
    "sigma": "sib_server.cli.sigma:sigma",
    "status": "sib_server.cli.status:status",
    "token": "sib_server.cli.token:token",
    "uninstall": "sib_server.cli.uninstall:uninstall",
    "try": "sib_server.cli.trial:try_command",
}


@click.group(cls=SibGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="SIB_SERVER_CONFIG",
    help=f"Settings file. [default: {DEFAULT_PATH}, where it exists]",
)
@click.version_option(__version__, prog_name="sib-server")
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """SIB's server: enrolls hosts, takes in their events, and keeps the fleet.

    \b
    Start here:
      sib-server try            a whole SIB at work, here and now
      sib-server ca init
      sib-server serve
      sib-server token create

    Completion for bash (zsh and fish likewise):

      eval "$(_SIB_SERVER_COMPLETE=bash_source sib-server)"
    """
    # A file that was named has to be there; without the usual one, the defaults hold.
    path, needed = config or DEFAULT_PATH, config is not None
    ctx.obj = ServerContext(partial(load_server_settings, path, needed=needed), path)
    ctx.call_on_close(ctx.obj.close)
