"""The command ``sib-server``: one module a noun, no logic in them."""

from __future__ import annotations

from pathlib import Path

import click

from sib_protocol import __version__
from sib_protocol.console import SibGroup
from sib_protocol.settings import load_settings
from sib_server.cli.ca import ca
from sib_server.cli.context import ServerContext
from sib_server.cli.events import events
from sib_server.cli.host import host
from sib_server.cli.intel import intel
from sib_server.cli.journal import journal
from sib_server.cli.serve import serve
from sib_server.cli.status import status
from sib_server.cli.token import token
from sib_server.cli.trial import try_command
from sib_server.settings import DEFAULT_PATH, ServerSettings


@click.group(cls=SibGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
    if config is None and not DEFAULT_PATH.exists():
        settings = ServerSettings()
    else:
        settings = load_settings(config or DEFAULT_PATH, ServerSettings)
    ctx.obj = ServerContext(settings)
    ctx.call_on_close(ctx.obj.close)


for command in (ca, events, host, intel, journal, serve, status, token, try_command):
    main.add_command(command)
