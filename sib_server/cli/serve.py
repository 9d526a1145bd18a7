"""``sib-server serve``."""

from __future__ import annotations

import asyncio
import gc
import resource

import click

from sib_protocol.logs import set_up_logging
from sib_server.cli.context import ServerContext, pass_server


@click.command()
@pass_server
def serve(server: ServerContext) -> None:
    """Run the server: enroll hosts, take their events in, deliver them. systemd starts it.

    \b
    Example:
      sib-server ca init && sib-server serve
    """
    import uvloop  # noqa: PLC0415  (the other commands start without it)

    from sib_server.daemon import ServerDaemon  # noqa: PLC0415

    set_up_logging(server.settings.log.level)
    # A connection a host: what the system allows, not what shells usually start with.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    # A full collection stands still for what it looks at, half a second with 5,000 connections, and
    # hardly ever finds anything: not what is loaded by now, and once in hours instead of minutes.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    async def run() -> int:
        return await ServerDaemon(server.settings).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(run())
    raise SystemExit(code)
