"""``sib-agent run``."""

from __future__ import annotations

import click

from sib_agent.cli.context import pass_settings
from sib_agent.settings import AgentSettings
from sib_protocol.logs import set_up_logging


@click.command()
@pass_settings
def run(settings: AgentSettings) -> None:
    """Run the daemon: take Falco's events over and send them home. systemd starts it.

    \b
    Example:
      sib-agent --config ./agent.yaml run
    """
    from sib_agent.daemon import AgentDaemon  # noqa: PLC0415  (the others start without it)
    from sib_agent.renewing import daemon_command  # noqa: PLC0415

    set_up_logging(settings.log.level)
    raise SystemExit(AgentDaemon(settings, daemon_command() or ()).run())
