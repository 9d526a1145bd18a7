"""``sib-server setup``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from sib_protocol.checks import Finding, Verdict, exit_code
from sib_protocol.console import print_findings, print_json, printable
from sib_protocol.generated import Action
from sib_server.cli.context import ServerContext, pass_server
from sib_server.stack import grafana
from sib_server.stack.layout import Component, Layout
from sib_server.stack.machine_look import find_facts, find_installed
from sib_server.stack.preflight import judge_machine
from sib_server.stack.services import Systemd
from sib_server.stack.setup import NotRootError, Setup, SetupReport
from sib_server.stack.wiring import resolve_uses

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@click.option("--check", is_flag=True, help="Only look whether this machine can be the server.")
@click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
@click.option("--force", is_flag=True, help="Replace generated files that somebody edited, too.")
@click.option("--renew", is_flag=True, help="Only renew what has a date. A timer does it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def setup(
    server: ServerContext, *, check: bool, dry_run: bool, force: bool, renew: bool, as_json: bool
) -> None:
    """Make what the server needs: CA, secrets, and the configuration of its stores.

    The packages run it at the first start; run it again after a change of the settings. What is
    as it should be stays untouched, services are restarted only for what changed, and a generated
    file that you edited is kept: the new one is put beside it as NAME.new.

    Leaves with 0 when all is well, and with 11 when something is not as it should be; what could
    be done is done all the same.

    \b
    Examples:
      sib-server setup
      sib-server setup --check
      sib-server setup --dry-run
      sib-server setup --json | jq '.files[] | select(.action != "unchanged")'
    """
    layout, systemd = Layout(), Systemd()
    uses = resolve_uses(server.settings.stack, find_installed(layout))
    one = Setup(
        settings=server.settings,
        settings_path=server.settings_file,
        layout=layout,
        uses=uses,
        server_names=server.server_names,
        systemd=systemd,
        force=force,
    )
    if not (check or dry_run) and os.geteuid() != 0:
        raise NotRootError
    if renew:
        _tell({"made": one.renew()}, as_json)
        return
    facts = find_facts(server.settings, layout, systemd=systemd.booted)
    findings = judge_machine(server.settings, uses, facts)
    report = None
    if not check:
        report = one.plan() if dry_run else one.run()
        findings += report.findings
    if as_json:
        shown = {} if report is None else {"report": report}
        print_json({"findings": findings, **shown})
    else:
        if report is not None:
            _print(report, layout, dry_run=dry_run)
        _print_findings(findings, whole=check)
    raise SystemExit(exit_code(findings))


def _tell(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for name in result["made"]:
        click.echo(f"made      {printable(name)}")


def _print(report: SetupReport, layout: Layout, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for name, use in report.uses.items():
        click.echo(f"{name:<14}{use}")
    for name in report.made:
        click.echo(f"{would}made: {printable(name)}")
    for change in report.files:
        if change.action is Action.KEPT:
            click.echo(f"kept: {change.path}, which you edited; see {change.path}.new, or --force")
        elif change.action is not Action.UNCHANGED:
            click.echo(f"{would}{change.action.value}: {change.path}")
    for step in report.services:
        click.echo(f"{step.step.value}: {step.unit}")
    if report.grafana is not None:
        click.echo(f"Grafana: {printable(report.grafana)}")
        if report.uses[Component.GRAFANA.value] == "local":
            click.echo(f"  user admin, password in {layout.secrets / grafana.ADMIN_PASSWORD}")
    if not dry_run and any("CA" in name for name in report.made):
        click.echo("Back up the CA: without it every host has to enroll again.", err=True)


def _print_findings(findings: Sequence[Finding], *, whole: bool) -> None:
    shown = [item for item in findings if whole or item.verdict is not Verdict.WELL]
    if shown:
        print_findings(shown)
