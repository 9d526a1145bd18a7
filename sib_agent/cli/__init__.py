"""The command ``sib-agent``: one module a noun, no logic in them."""

from __future__ import annotations

from pathlib import Path

import click

from sib_agent.cli.context import AgentContext
from sib_agent.cli.identity import enroll, renew, unenroll
from sib_agent.cli.run import run
from sib_agent.cli.status import status
from sib_agent.settings import DEFAULT_PATH
from sib_protocol import __version__
from sib_protocol.console import SibGroup

_LAZY = {
    **{
        name: f"sib_agent.cli.{name}:{name}"
        for name in ("doctor", "drill", "logs", "setup", "uninstall")
    },
    "bundle-fetch": "sib_agent.cli.bundle:bundle_fetch",
}


@click.group(cls=SibGroup, lazy=_LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="SIB_AGENT_CONFIG",
    help=f"Settings file. [default: {DEFAULT_PATH}, where it exists]",
)
@click.version_option(__version__, prog_name="sib-agent")
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """SIB's agent: brings every Falco event of this host home, losing none.

    \b
    Start here, with a line from 'sib-server token create':
      echo 'sib1.…' | sudo sib-agent enroll
      sudo sib-agent doctor

    Completion for bash (zsh and fish likewise):

      eval "$(_SIB_AGENT_COMPLETE=bash_source sib-agent)"
    """
    ctx.obj = AgentContext(config)


for command in (enroll, renew, run, status, unenroll):
    main.add_command(command)
