"""``sib-server doctor``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from sib_protocol.checks import exit_code
from sib_protocol.console import print_findings, print_json
from sib_server.cli.context import ServerContext, pass_server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sib_protocol.checks import Finding


@click.command()
@click.option("--alert", is_flag=True, help="Send a test alert to Falcosidekick's outputs, too.")
@click.option(
    "--patience",
    type=click.FloatRange(min=1, max=600),
    default=30.0,
    show_default=True,
    help="How long a sink may take for the probe, in seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@pass_server
def doctor(server: ServerContext, alert: bool, patience: float, as_json: bool) -> None:
    """Find out what is wrong with this server. Leaves with 0, or with 11 where something is.

    It looks at the machine, units, ports, certificates, secrets, stores, the journal and the
    fleet, and sends a probe all the way of an event: over mutual TLS into the journal, and on to
    Loki, where LogQL has to find it. The probe alerts nobody, unless --alert asks for that.

    \b
    Examples:
      sudo sib-server doctor
      sudo sib-server doctor --json | jq '.[] | select(.verdict == "failed")'
    """
    from sib_server.operations.doctor.look import examine  # noqa: PLC0415

    findings: list[Finding] = []
    with _progress(as_json=as_json):
        findings.extend(examine(server, alert=alert, patience=patience))
    if as_json:
        print_json(findings)
    else:
        print_findings(findings)
    raise SystemExit(exit_code(findings))


def _progress(*, as_json: bool) -> AbstractContextManager[object]:
    """A sign of life, on a terminal only."""
    if as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return nullcontext(None)
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True).status("looking …")
