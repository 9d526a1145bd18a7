"""``sib-server disk-guard``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sib_protocol.console import print_json, print_table
from sib_protocol.errors import ExitCode
from sib_protocol.machine import size
from sib_server.cli.context import ServerContext, pass_server

if TYPE_CHECKING:
    from sib_server.operations.disk.decision import Decision


@click.command("disk-guard")
@click.option("--dry-run", is_flag=True, help="Only say what would be given up.")
@click.option("--json", "as_json", is_flag=True, help="Print the decision as JSON.")
@pass_server
def disk_guard(server: ServerContext, dry_run: bool, as_json: bool) -> None:
    """Keep journal, Loki and Prometheus within their room; the oldest goes first.

    A timer runs it every five minutes. Events that a sink has not had are never given up. Leaves
    with 11 where everything that may go is gone and it is still too much.

    \b
    Examples:
      sudo sib-server disk-guard --dry-run
      sudo sib-server disk-guard --json | jq .stores
    """
    from sib_server.events.outbox import Outbox  # noqa: PLC0415
    from sib_server.operations.accounts import acting_as, server_account  # noqa: PLC0415
    from sib_server.operations.disk.guard import enforce, run_guard  # noqa: PLC0415
    from sib_server.operations.doctor.look import sinks_in_use  # noqa: PLC0415

    settings = server.settings
    decision, before = run_guard(settings, sinks_in_use(settings))
    if not dry_run:
        news = enforce(settings, decision, before)
        if news is not None:
            with acting_as(server_account(settings.journal.path.parent)):
                Outbox(settings.journal.outbox_directory).put([news])
    if as_json:
        print_json(decision)
    else:
        _show(decision)
    if decision.over:
        raise SystemExit(ExitCode.INCOMPLETE)


def _show(decision: Decision) -> None:
    rows = [
        (
            store.name,
            size(store.used),
            size(store.slack),
            "everything"
            if store.cut_ns is None
            else f"{(decision.time_ns - store.cut_ns) / 86_400e9:.1f} days",
        )
        for store in decision.stores
    ]
    print_table(["store", "used", "free inside", "keeps"], rows)
    click.echo(f"room for all: {size(decision.capacity)}; free: {size(decision.free)}")
    for room, amount in decision.over.items():
        click.echo(f"! {room}: {size(amount)} too much, and all that may go is gone")
    if decision.prometheus_bytes is not None:
        click.echo(
            f"! Prometheus takes more than its share: set stack.prometheus.retention_bytes to"
            f" {decision.prometheus_bytes}, and run 'sib-server setup'"
        )
