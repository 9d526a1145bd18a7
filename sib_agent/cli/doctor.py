"""``sib-agent doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sib_agent.cli.context import AgentContext, pass_context
from sib_agent.doctor.look import Patient, examine
from sib_protocol.checks import exit_code
from sib_protocol.console import print_findings, print_json
from sib_protocol.identity import IdentityStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_protocol.checks import Finding


@click.command()
@click.option("--no-probe", is_flag=True, help="Send no event through.")
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(1, 600),
    default=20.0,
    show_default=True,
    help="How long the event may take, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@pass_context
def doctor(context: AgentContext, *, no_probe: bool, seconds: float, as_json: bool) -> None:
    """Find out whether this host's events come home, and what to do where they do not.

    It starts a harmless program that Falco is to see ('/bin/true sib-probe-...'), follows the event
    into the spool and to the server, and says how long that took; where Falco does not run, a line
    is written in its place. The event is stored like any other, and wakes nobody up.

    Leaves with 11 when something does not work.

    \b
    Examples:
      sudo sib-agent doctor
      sudo sib-agent doctor --json | jq '.[] | select(.verdict == "failed")'
    """
    settings = context.settings
    identities = IdentityStore(settings.identity.directory)
    patient = Patient(settings, str(context.settings_file), identities)
    findings = _gather(examine(patient, probe=not no_probe, seconds=seconds))
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
    raise SystemExit(exit_code(findings))


def _gather(findings: Iterable[Finding]) -> list[Finding]:
    if not sys.stderr.isatty():
        return list(findings)
    # Here, because it takes longer to import than most commands run.
    from rich.console import Console  # noqa: PLC0415

    gathered = []
    with Console(stderr=True).status("looking"):
        for finding in findings:
            gathered.append(finding)  # noqa: PERF402  (each is waited for)
    return gathered
