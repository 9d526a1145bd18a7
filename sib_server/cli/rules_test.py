"""``sib-server rules test``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sib_protocol.console import print_json, print_table, printable
from sib_protocol.drills.model import Kind
from sib_protocol.drills.verdicts import Result, plan, summary
from sib_protocol.errors import ExitCode
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.rules_parameters import RULE
from sib_server.detection.rules.proofs import OWN_NAME, load_proofs, merged, save_proofs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sib_protocol.drills.verdicts import Planned, Verdict
    from sib_server.detection.rules.testing import Report, Trial


@click.command(name="test")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rule", "only", type=RULE, multiple=True, help="Only this rule, by id or name; repeatable."
)
@click.option(
    "--falco",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The Falco to use. [default: that of the package sib-falco, else one on the PATH]",
)
@click.option("--no-quiet-cases", is_flag=True, help="Drills alone; then nothing is proven.")
@click.option("--forget", is_flag=True, help="Do not keep what was proven.")
@click.option(
    "--proof",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep what was proven in this file. [default: in detection.directory]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_server
def test(  # noqa: PLR0917 - as many as it has options
    server: ServerContext,
    paths: tuple[Path, ...],
    only: tuple[str, ...],
    falco: Path | None,
    no_quiet_cases: bool,
    forget: bool,
    proof: Path | None,
    as_json: bool,
) -> None:
    """Run drills and quiet cases against a real Falco on this machine. Needs root.

    PATHs are files or folders with your own rules and their *.drills.yaml; without any, all rules
    that hosts get are tested. Each drill must fire its rule; no quiet case may fire any rule but
    the Falco project's. Everything runs in a throw-away root without a network.

    Leaves with 0 when that is so, else with 11.

    \b
    Examples:
      sudo sib-server rules test /etc/sib/rules.d
      sudo sib-server rules test --rule sib-ca-001
      sudo sib-server rules test --json | jq '.verdicts[] | select(.result != "fired")'
    """
    from sib_server.detection.rules import testing  # noqa: PLC0415

    settings = server.settings
    trial = testing.prepare(settings, paths, only)
    program = testing.find_falco(falco)
    stock = settings.detection.falco()
    stock = stock / "falco_rules.yaml" if stock.is_dir() else stock
    acts = len(plan(trial.drills, quiet=not no_quiet_cases))
    with _progress(acts) as done:
        report = testing.run_trial(
            trial,
            program,
            falco_rules=stock if stock.is_file() else None,
            quiet=not no_quiet_cases,
            done=done,
        )
    if not (forget or no_quiet_cases):
        path = proof or settings.detection.directory / OWN_NAME
        tested = [drill.id for drill in trial.drills]
        save_proofs(path, merged(load_proofs(path), report.proofs, tested))
    if as_json:
        print_json(_json(trial, report))
    else:
        _show(trial, report)
    if any(not verdict.result.is_well for verdict in report.verdicts):
        raise SystemExit(ExitCode.INCOMPLETE)


class _progress:  # noqa: N801 - used as a function
    """A bar on a terminal. It draws when it is told, never from a thread: acts are forked."""

    def __init__(self, acts: int) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress  # noqa: PLC0415

        console = Console(stderr=True)
        self._bar = Progress(
            console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("Starting Falco", total=acts)

    def __enter__(self) -> Callable[[Planned], None]:
        self._bar.start()
        return self._done

    def _done(self, planned: Planned) -> None:
        name = planned.drill.id
        self._bar.update(self._task, advance=1, description=name, refresh=True)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _json(trial: Trial, report: Report) -> dict[str, object]:
    return {
        "engine": report.engine,
        "kernel": report.kernel,
        "time": report.time,
        "lost_events": report.lost,
        "without_drill": trial.without,
        "proven": sorted(report.proofs),
        "verdicts": report.verdicts,
    }


def _rows(verdicts: tuple[Verdict, ...]) -> Iterator[tuple[str, ...]]:
    for verdict in verdicts:
        others = ", ".join(name for name in verdict.fired if name != verdict.rule)
        loud = verdict.kind is Kind.QUIET or verdict.result is Result.SILENT
        said = f"fired: {', '.join(verdict.fired)}" if loud and verdict.fired else others
        why = verdict.why or ""
        if not verdict.result.is_well:
            yield (
                verdict.id,
                verdict.title,
                verdict.result.value,
                "; ".join(filter(None, (said, why.partition("\n")[0]))),
            )


def _show(trial: Trial, report: Report) -> None:
    rows = list(_rows(report.verdicts))
    if rows:
        print_table(("id", "act", "result", "what was seen"), rows)
    for name in trial.without:
        click.echo(f"no drill: {printable(name)}", err=True)
    counts = summary(report.verdicts)
    told = ", ".join(f"{counts[one]} {one.value}" for one in Result if counts.get(one))
    click.echo(f"Falco {report.engine} on {report.kernel}: {told}")
    if report.lost:
        click.echo(f"the machine is busy: Falco lost {report.lost} of its events", err=True)
    if sys.stdout.isatty():
        click.echo(f"{len(report.proofs)} of {len(trial.drills)} rules proven")
