"""``sib-agent drill``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from sib_agent.cli.context import AgentContext, pass_settings
from sib_agent.settings import AgentSettings
from sib_protocol.console import print_json, print_table
from sib_protocol.drills.model import Kind
from sib_protocol.drills.parsing import SUFFIX, drill_files, load_drills
from sib_protocol.drills.verdicts import Result, plan
from sib_protocol.errors import ExitCode, SibError
from sib_protocol.identity import IdentityStore, identity_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_agent.drilling.drilling import Drilled
    from sib_protocol.drills.model import RuleDrill


def _bundle(context: click.Context) -> Path:
    # While a shell asks, the command above has not run.
    config = context.find_root().params.get("config")
    return AgentContext(Path(config) if config else None).settings.falco.bundles / "current/drills"


def _complete_rules(
    context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Ids of the bundle's drills, with their rules; nothing where they cannot be read."""
    try:
        found = load_drills(_bundle(context))
    except (SibError, OSError):
        return []
    return [CompletionItem(one.id, help=one.rule) for one in found if one.id.startswith(begun)]


def _complete_tactics(
    context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Names of the bundle's files; nothing where they cannot be read."""
    try:
        names = sorted(path.name.removesuffix(SUFFIX) for path in drill_files(_bundle(context)))
    except (SibError, OSError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(begun)]


@click.command()
@click.option(
    "--rule", "rules", multiple=True, shell_complete=_complete_rules,
    help="The drill of this rule, by id or name.",
)  # fmt: skip
@click.option(
    "--tactic", "tactics", multiple=True, shell_complete=_complete_tactics,
    help="All of a tactic: credential_access, ...",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="All drills of the host's bundle.")
@click.option("--quiet-cases", is_flag=True, help="Everyday acts, too, which must fire nothing.")
@click.option(
    "--from",
    "place",
    type=click.Path(exists=True, path_type=Path),
    help="Take drills from this file or folder. [default: the host's bundle]",
)
@click.option("--no-report", is_flag=True, help="Do not tell the server how it ended.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_settings
def drill(  # noqa: PLR0917 - as many as it has options
    settings: AgentSettings,
    rules: tuple[str, ...],
    tactics: tuple[str, ...],
    everything: bool,
    quiet_cases: bool,
    place: Path | None,
    no_report: bool,
    as_json: bool,
) -> None:
    """Prove that this host is watched: do harmless acts, and follow each one's event to the server.

    Each act runs in a throw-away root of its own, without a network and with stand-ins for what
    would do harm; this host's real Falco must see it, and the server must get the event. Needs root
    and a host that is enrolled. The events are real and alert whoever is alerted; they carry the
    field proc.env[SIB_DRILL].

    Leaves with 0 when every rule fired and every event arrived, else with 11.

    \b
    Examples:
      sudo sib-agent drill --rule sib-ca-001
      sudo sib-agent drill --tactic credential_access --json
      sudo sib-agent drill --all --quiet-cases
    """
    from sib_agent.client import ServerClient  # noqa: PLC0415
    from sib_agent.drilling.drilling import (  # noqa: PLC0415
        Driller,
        NoDrillsError,
        choose,
        engine_version,
        report,
        unknown_names,
    )

    if not (rules or tactics or everything):
        raise click.UsageError("say which: --rule, --tactic or --all")
    bundle = settings.falco.bundles / "current"
    folder = place or bundle / "drills"
    if not folder.exists():
        raise NoDrillsError(folder, ())
    store = IdentityStore(settings.identity.directory)
    servers = store.load().servers
    every = load_drills(folder)
    asked = (every, rules, frozenset(tactics), _files(folder))
    chosen, unknown = choose(*asked), unknown_names(*asked)
    # An act that was asked for and not done must not pass for one that fired.
    if unknown or not chosen:
        raise NoDrillsError(folder, unknown or [*rules, *tactics])
    client = ServerClient(servers, lambda: identity_context(store))
    acts = plan(chosen, quiet=quiet_cases)
    show = _shower(len(acts)) if not as_json else (lambda _: None)
    try:
        found = Driller(settings.spool.directory, client).run(
            acts, frozenset(one.rule for one in every), show
        )
    finally:
        client.close()
    version = "" if place is not None or not bundle.is_symlink() else bundle.readlink().name
    if not no_report:
        engine = engine_version(settings.falco.home / "bin" / "falco")
        report(found, settings.events.file, engine, version)
    if as_json:
        print_json({"bundle": version, "drills": [_row(one) for one in found]})
    else:
        _show(found)
    if not all(one.is_well for one in found):
        raise SystemExit(ExitCode.INCOMPLETE)


def _files(folder: Path) -> dict[str, str]:
    """Which file each drill is in: bundles keep one a tactic."""
    return {
        one.id: path.name.removesuffix(SUFFIX)
        for path in drill_files(folder)
        for one in _drills(path)
    }


def _drills(path: Path) -> tuple[RuleDrill, ...]:
    return load_drills(path)


def _shower(acts: int) -> Callable[[Drilled], None]:
    if not sys.stderr.isatty():
        return lambda _: None
    count = 0

    def show(one: Drilled) -> None:
        nonlocal count
        count += 1
        click.echo(f"\r\x1b[K{count}/{acts} {one.verdict.id}", nl=count == acts, err=True)

    return show


def _row(one: Drilled) -> dict[str, object]:
    verdict = one.verdict
    return {
        "id": verdict.id,
        "rule": verdict.rule,
        "kind": verdict.kind.value,
        "name": verdict.name,
        "result": verdict.result.value,
        "fired": verdict.fired,
        "seconds_to_spool": one.to_spool_s,
        "seconds_to_server": one.to_server_s,
        "why": verdict.why,
    }


def _show(found: list[Drilled]) -> None:
    rows = []
    for one in found:
        verdict = one.verdict
        seconds = "-" if one.to_server_s is None else f"{one.to_server_s:.2f}"
        remark = verdict.why or (", ".join(verdict.fired) if not verdict.result.is_well else "")
        if verdict.kind is Kind.DRILL and verdict.result.is_well and one.to_server_s is None:
            remark = "the server has not got it yet"
        line = remark.partition("\n")[0]
        rows.append((verdict.id, verdict.title, verdict.result.value, seconds, line))
    print_table(("id", "rule", "result", "seconds to the server", "remark"), rows)
    drills = [one.verdict for one in found if one.verdict.kind is Kind.DRILL]
    if drills and all(one.result is Result.SILENT for one in drills):
        click.echo("nothing was seen: does Falco run here? sudo sib-agent doctor", err=True)
    well = sum(one.is_well for one in found)
    click.echo(f"{well} of {len(found)} as they should be")
