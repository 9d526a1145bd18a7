"""``sib-agent setup``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sib_agent.cli.context import AgentContext, pass_context
from sib_agent.setup import steps
from sib_agent.setup.facts import gather
from sib_agent.setup.preflight import judge_host
from sib_protocol.checks import Finding, Verdict, exit_code
from sib_protocol.console import print_findings, print_json
from sib_protocol.errors import ExitCode
from sib_protocol.identity import IdentityStore

if TYPE_CHECKING:
    from sib_protocol.generated import FileChange


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.option(
    "--check", is_flag=True, help="Write nothing; leave with 11 where something is not right."
)
@click.option("--force", is_flag=True, help="Replace files that were edited, too.")
@click.option("--no-units", is_flag=True, help="Start and reload nothing.")
@click.option("--quiet", "-q", is_flag=True, help="Say only what is not well.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_context
def setup(
    context: AgentContext,
    *,
    dry_run: bool,
    check: bool,
    force: bool,
    no_units: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the configuration of Falco and Alloy on this host, and look whether they can work.

    It runs by itself when the package is installed, and again when the host enrolls. After a change
    in the settings run it by hand. A file that somebody edited is kept: what would be in it is put
    beside it, as NAME.new.

    \b
    Examples:
      sudo sib-agent setup
      sudo sib-agent setup --dry-run
      sudo sib-agent setup --check --json
    """
    settings, source = context.settings, context.settings_file
    facts = gather(settings)
    identity = steps.find_identity(IdentityStore(settings.identity.directory))
    findings = judge_host(facts, settings)
    findings.append(steps.judge_identity(identity, alloy=settings.alloy.enabled))
    files = steps.wanted_files(
        settings, facts, identity, source=str(source), owner=steps.owner_of_files()
    )
    looking = dry_run or check
    if looking:
        changes = steps.plan(files, force=force)
    else:
        changes = steps.apply(settings, files, force=force)
    if settings.falco.enabled:
        findings.append(steps.judge_bundle(settings.falco))
    findings += steps.judge_changes(changes, pending=looking)
    if not looking and not no_units:
        findings += steps.tell_systemd(steps.unit_steps(settings, facts, changes))
    _show(findings, changes, quiet=quiet, as_json=as_json)
    if check:
        raise SystemExit(exit_code(findings))
    raise SystemExit(ExitCode.OK)


def _show(
    findings: list[Finding], changes: list[FileChange], *, quiet: bool, as_json: bool
) -> None:
    if as_json:
        print_json({"findings": findings, "files": changes})
        return
    shown = [item for item in findings if not quiet or item.verdict is not Verdict.WELL]
    if shown:
        print_findings(shown)
