"""``sib-server rules coverage``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sib_protocol.console import print_json, print_table, printable
from sib_protocol.errors import FileAccessError
from sib_protocol.files import write_atomic
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.rules_parameters import SOURCE, TACTIC
from sib_server.cli.times import iso_ns
from sib_server.detection.attack.matrix import shipped
from sib_server.detection.rules.compile import load
from sib_server.detection.rules.coverage import coverage as covered
from sib_server.detection.rules.coverage import view
from sib_server.detection.rules.fired import last_fired
from sib_server.detection.rules.navigator import layer
from sib_server.detection.rules.proofs import OWN_NAME, SHIPPED_NAME, load_proofs
from sib_server.events.failures import JournalError
from sib_server.events.reader import JournalReader

if TYPE_CHECKING:
    from sib_server.detection.rules.coverage import Coverage, CoveredTactic, CoveredTechnique
    from sib_server.detection.rules.proofs import Proofs
    from sib_server.detection.rules.settings import DetectionSettings


@click.command()
@click.argument("tactic", type=TACTIC, required=False)
@click.option("--missing", is_flag=True, help="With TACTIC: its techniques without a rule, too.")
@click.option("--source", type=SOURCE, multiple=True, help="Only rules of this; repeatable.")
@click.option(
    "--navigator",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a layer for MITRE's ATT&CK Navigator (format 4.5) to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_server
def coverage(  # noqa: PLR0917 - as many as it has options
    server: ServerContext,
    tactic: str | None,
    missing: bool,
    source: tuple[str, ...],
    navigator: Path | None,
    as_json: bool,
) -> None:
    """Show which ATT&CK techniques have a rule, are proven, and have fired.

    A technique is proven when `rules test` fired one of its rules, as that rule is now, on a real
    Falco: a change of the rule or of its drill takes the proof away. It has fired when the journal
    has an event of one of its rules that is no demonstration.

    With TACTIC, such as credential_access, each technique is listed.

    \b
    Examples:
      sib-server rules coverage
      sib-server rules coverage persistence --missing
      sib-server rules coverage --navigator layer.json
      sib-server rules coverage --json | jq .totals
    """
    settings = server.settings
    entries = [
        entry for entry in load(settings).entries if not source or entry.rule.origin.value in source
    ]
    fired: dict[str, str] = {}
    try:
        with JournalReader(settings.journal.path) as reader:
            times = last_fired(reader, [entry.rule.name for entry in entries])
    except JournalError as error:
        click.echo(f"what fired is not known: {printable(error.problem)}", err=True)
    else:
        fired = {rule: str(iso_ns(time)) for rule, time in times.items()}
    found = covered(shipped(), entries, proof_files(settings.detection), fired)
    chosen = next((one for one in found.tactics if one.tactic.tag == tactic), None)
    if navigator is not None:
        content = msgspec.json.format(msgspec.json.encode(layer(found, "SIB")), indent=1)
        try:
            write_atomic(navigator, content + b"\n", 0o644)
        except OSError as error:
            raise FileAccessError(navigator, error.strerror or str(error)) from error
    if as_json:
        print_json(view(found))
    elif chosen is not None:
        _show_tactic(chosen, missing=missing)
    else:
        _show(found)
    if navigator is not None:
        click.echo(f"layer written to {printable(str(navigator))}", err=True)


def proof_files(settings: DetectionSettings) -> list[Proofs]:
    """The proofs that came with SIB, and those that `rules test` made here."""
    shipped_rules = settings.shipped()
    places = (
        shipped_rules / SHIPPED_NAME,
        shipped_rules.parent / SHIPPED_NAME,
        settings.directory / OWN_NAME,
    )
    return [load_proofs(path) for path in places]


def _show(found: Coverage) -> None:
    rows = []
    for one in found.tactics:
        counts = one.counts()
        numbers = (counts.known, counts.with_rule, counts.proven, counts.fired)
        rows.append([one.tactic.tag, *map(str, numbers)])
    print_table(["tactic", "on Linux", "with a rule", "proven", "fired"], rows)
    counts = found.counts()
    click.echo(
        f"ATT&CK {found.version}: of {counts.known} techniques and sub-techniques "
        f"{counts.with_rule} have a rule, {counts.proven} are proven, {counts.fired} have fired"
    )
    if found.strangers:
        click.echo(f"not in this version: {printable(', '.join(found.strangers))}")


def _show_tactic(found: CoveredTactic, *, missing: bool) -> None:
    rows = [
        [one.technique.id, one.title, " ".join(one.rules) or _why_none(one), _proof(one),
         one.fired or "-"]
        for one in found.techniques
        if missing or one.rules or one.off
    ]  # fmt: skip
    print_table(["id", "technique", "rules", "proven", "fired"], rows)


def _why_none(one: CoveredTechnique) -> str:
    return f"switched off: {' '.join(one.off)}" if one.off else "-"


def _proof(one: CoveredTechnique) -> str:
    if one.proof is None:
        return "changed since" if one.outdated else "-"
    return f"{one.proof.time[:10]} Falco {one.proof.engine}"
