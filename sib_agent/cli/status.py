"""``sib-agent status``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click
import msgspec

from sib_agent.cli.context import pass_settings
from sib_agent.settings import AgentSettings
from sib_agent.setup.units import unit_states
from sib_agent.standing import Standing, is_alive, judge_standing, judge_units, load_snapshot
from sib_protocol.console import print_json, printable
from sib_protocol.errors import ExitCode
from sib_protocol.identity import IdentityStore

if TYPE_CHECKING:
    from sib_agent.health import Snapshot
    from sib_protocol.identity import Identity
    from sib_protocol.messages import BundleEnd, BundleHealth
    from sib_protocol.units import UnitState

_COLOURS: Final = {Standing.WELL: "green", Standing.TROUBLED: "yellow", Standing.STOPPED: "red"}


def _json(
    identity: Identity,
    snapshot: Snapshot | None,
    standing: Standing,
    problems: list[str],
    units: list[UnitState] | None,
) -> dict[str, object]:
    found: dict[str, object] = {
        "units": units,
        "state": standing.value,
        "problems": problems,
        "host_id": identity.host_id,
        "host_name": identity.host_name,
        "servers": list(identity.servers),
        "certificate": {"serial": identity.serial, "not_after": identity.not_after},
    }
    if snapshot is not None:
        spool = snapshot.report.spool
        found |= {
            "version": snapshot.report.version,
            "pid": snapshot.pid,
            "uptime_seconds": snapshot.report.uptime_seconds,
            "link": snapshot.link,
            "lines_read": snapshot.report.lines_read,
            "lines_sent": snapshot.lines_sent,
            "spool": {
                "stream": spool.stream,
                "next": spool.next,
                "acknowledged": spool.acknowledged,
                "waiting": spool.next - spool.acknowledged,
                "bytes": spool.bytes,
                "quota": spool.quota,
                "oldest_seconds": spool.oldest_seconds,
                "lost": spool.lost,
            },
            "bundle": msgspec.to_builtins(snapshot.report.bundle),
        }
    return found


def _bundle(bundle: BundleHealth) -> str:
    parts = [f"{bundle.version or 'none'}, {bundle.engine or 'not looked yet'}"]
    if bundle.trying is not None:
        parts.append(f"{bundle.trying} is on trial")
    if bundle.ended is not None:
        parts.append(f"last: {_end(bundle.ended)}")
    if bundle.failed is not None and bundle.failed != bundle.ended:
        parts.append(f"last not taken: {_end(bundle.failed)}")
    return "; ".join(parts)


def _end(end: BundleEnd) -> str:
    return f"{end.version} {end.outcome.value.replace('_', ' ')}, {end.reason}"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_settings
def status(settings: AgentSettings, as_json: bool) -> None:
    """Say how this host's agent is. Leaves with 0 when all is well, else with 11.

    \b
    Examples:
      sudo sib-agent status
      sudo sib-agent status --json | jq .spool.waiting
    """
    identity = IdentityStore(settings.identity.directory).load()
    snapshot = load_snapshot(settings.status.file)
    alive = snapshot is not None and is_alive(snapshot.pid)
    units = unit_states()
    standing, problems = judge_units(
        *judge_standing(identity, snapshot, time.time(), alive=alive), units or []
    )
    if as_json:
        print_json(_json(identity, snapshot, standing, problems, units))
    else:
        click.echo(f"{identity.host_name} ({identity.host_id})")
        click.echo("  state        " + click.style(standing.value, fg=_COLOURS[standing]))
        click.echo(f"  server       {', '.join(identity.servers)}")
        days = (identity.not_after - time.time()) / 86400
        click.echo(f"  certificate  {identity.serial}, {days:.1f} days left")
        if snapshot is not None:
            report, spool = snapshot.report, snapshot.report.spool
            click.echo(f"  lines        {report.lines_read} read, {snapshot.lines_sent} sent")
            click.echo(
                f"  spool        {spool.next - spool.acknowledged} waiting,"
                f" {spool.bytes} of {spool.quota} bytes, {spool.lost} lost"
            )
            if report.bundle is not None:
                click.echo(f"  bundle       {printable(_bundle(report.bundle))}")
        if units:
            shown = ", ".join(
                f"{unit.component} {unit.detail}" for unit in units if not unit.oneshot
            )
            click.echo(f"  units        {shown}")
        for problem in problems:
            click.echo(f"  ! {printable(problem)}")
    if standing is not Standing.WELL:
        raise SystemExit(ExitCode.INCOMPLETE)
