"""``sib-server rules``: what is detected, and what is not."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import yaml

from sib_protocol.console import SibGroup, print_json, print_table, printable
from sib_protocol.errors import ExitCode
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.rules_parameters import RULE, SOURCE, TACTIC
from sib_server.cli.times import iso
from sib_server.detection.rules.findings import Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.rules.catalogue import Entry
    from sib_server.detection.rules.findings import Finding

_LAZY: Final = {
    "coverage": "sib_server.cli.rules_coverage:coverage",
    "test": "sib_server.cli.rules_test:test",
    "tune": "sib_server.cli.rules_tune:tune",
    "tunings": "sib_server.cli.rules_tune:tunings",
    "undo": "sib_server.cli.rules_tune:undo",
}
_COLOURS: Final = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


@click.group(cls=SibGroup, lazy=_LAZY)
def rules() -> None:
    """What hosts detect: SIB's rules, yours, Sigma's, the indicators', the Falco project's.

    Your own rules are files in /etc/sib/rules.d, with NAME.drills.yaml beside NAME.yaml. What is
    decided here reaches hosts with the next bundle.

    \b
      sib-server rules list
      sib-server rules lint /etc/sib/rules.d
      sib-server rules disable T1046
      sib-server rules tune EVENT_ID
      sib-server rules coverage
    """


@rules.command("list")
@click.argument("text", required=False)
@click.option("--source", type=SOURCE, help="Only of this source.")
@click.option("--technique", help="Only of this technique; T1003 finds T1003.008 too.")
@click.option("--tactic", type=TACTIC, help="Only of this tactic, such as credential_access.")
@click.option("--disabled", is_flag=True, help="Only rules that are switched off.")
@click.option("--undrilled", is_flag=True, help="Only rules without a drill.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@pass_server
def list_(  # noqa: PLR0917 - as many as it has options
    server: ServerContext,
    text: str | None,
    source: str | None,
    technique: str | None,
    tactic: str | None,
    disabled: bool,
    undrilled: bool,
    as_json: bool,
) -> None:
    """List rules; with TEXT those that have it in their id or name.

    \b
    Examples:
      sib-server rules list shadow
      sib-server rules list --source own --undrilled
      sib-server rules list --json | jq -r 'select(.enabled | not) | .id'
    """
    found = [
        entry
        for entry in _entries(server)
        if (text is None or text.lower() in f"{entry.id}\n{entry.rule.name}".lower())
        and (source is None or entry.rule.origin.value == source)
        and (tactic is None or tactic in entry.tactics)
        and (
            technique is None
            or any(one == technique or one.startswith(f"{technique}.") for one in entry.techniques)
        )
        and not (disabled and entry.rule.enabled)
        and not (undrilled and entry.drill)
    ]
    if as_json:
        for entry in found:
            click.echo(json.dumps(entry.row(), ensure_ascii=False))
        return
    print_table(
        ["id", "on", "priority", "techniques", "drill", "source", "name"],
        [
            [
                entry.id,
                "yes" if entry.rule.enabled else "no",
                entry.rule.priority.value.lower(),
                " ".join(entry.techniques),
                f"yes, {entry.quiet_cases} quiet" if entry.drill else "-",
                entry.rule.origin.value,
                entry.rule.name,
            ]
            for entry in found
        ],
    )
    off = sum(not entry.rule.enabled for entry in found)
    click.echo(f"{len(found)} rules, {off} switched off", err=True)


@rules.command()
@click.argument("rule", type=RULE)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_server
def show(server: ServerContext, rule: str, as_json: bool) -> None:
    """Show a RULE, by its id or name, as hosts judge by it.

    \b
    Examples:
      sib-server rules show sib-ca-001
      sib-server rules show "Terminal shell in container"
    """
    from sib_server.detection.rules.compile import load  # noqa: PLC0415
    from sib_server.detection.rules.selecting import find_rule  # noqa: PLC0415

    loaded = load(server.settings)
    entry = find_rule(rule, loaded.entries, falco_known=loaded.sources.falco_known)
    tuned = [one for one in loaded.decisions.tunings if one.rule == entry.rule.name]
    body = _body(entry)
    if as_json:
        tunings = [
            {"id": one.id, "exception": one.exception, "values": one.values} for one in tuned
        ]
        print_json({**entry.row(), "content": entry.content, "rule": body, "tunings": tunings})
        return
    state = "on" if entry.rule.enabled else "switched off"
    click.echo(
        f"# {entry.id} ({entry.rule.origin.value}), {state}, {printable(str(entry.rule.place))}"
    )
    drill = f"a drill and {entry.quiet_cases} quiet cases" if entry.drill else "no drill"
    click.echo(f"# {drill}")
    for change in entry.rule.changes:
        click.echo(f"# changed at {printable(str(change))}")
    for one in tuned:
        values = ", ".join(map(repr, one.values))
        click.echo(f"# tuned by {one.id}: {one.exception} with {printable(values)}")
    click.echo(yaml.safe_dump([body], sort_keys=False, allow_unicode=True, width=98).rstrip())


def _body(entry: Entry) -> dict[str, Any]:
    from sib_server.detection.rules.emit import exception_document  # noqa: PLC0415

    rule = entry.rule
    return {
        "rule": rule.name,
        "desc": " ".join(rule.desc.value.split()),
        "condition": " ".join(rule.condition.value.split()),
        "output": " ".join(rule.output.value.split()),
        "priority": rule.priority.value,
        "source": rule.source,
        "tags": list(rule.tags),
        "exceptions": [exception_document(one) for one in rule.exceptions],
    }


@rules.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--errors", "errors_only", is_flag=True, help="Only what hosts would refuse.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@pass_server
def lint(server: ServerContext, paths: tuple[Path, ...], errors_only: bool, as_json: bool) -> None:
    """Judge all rules, or those of files and folders at PATHS, without running them.

    Each finding is FILE:LINE: error or warning: RULE: what is wrong [lint]. Leaves with 1 where
    there is one. An error keeps a bundle from being made; a warning does not.

    \b
    Examples:
      sib-server rules lint
      sib-server rules lint my-rules.yaml
      sib-server rules lint --json /etc/sib/rules.d | jq -r .lint | sort | uniq -c
    """
    from sib_server.detection.rules.linting import lint_all, lint_paths  # noqa: PLC0415

    found = lint_paths(server.settings, paths) if paths else lint_all(server.settings)
    shown = [one for one in found if one.severity is Severity.ERROR or not errors_only]
    for finding in shown:
        _print_finding(finding, as_json=as_json)
    errors = sum(one.severity is Severity.ERROR for one in shown)
    click.echo(f"{errors} errors, {len(shown) - errors} warnings", err=True)
    if shown:
        raise SystemExit(ExitCode.FAILURE)


def _print_finding(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        row = {
            "file": finding.place.file,
            "line": finding.place.line,
            "severity": finding.severity.value,
            "rule": finding.rule,
            "lint": finding.lint,
            "reason": finding.reason,
        }
        click.echo(json.dumps(row, ensure_ascii=False))
        return
    severity = click.style(finding.severity.value, fg=_COLOURS[finding.severity])
    about = f"{printable(finding.rule)}: " if finding.rule else ""
    place = printable(str(finding.place))
    click.echo(f"{place}: {severity}: {about}{printable(finding.reason)} [{finding.lint}]")


@rules.command("compile")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A new or empty folder for the files.",
)
@click.option("--replace", is_flag=True, help="Delete what an earlier compile left there.")
@click.option("--json", "as_json", is_flag=True, help="Print names, sizes and findings as JSON.")
@pass_server
def compile_(server: ServerContext, out: Path, replace: bool, as_json: bool) -> None:
    """Write the files that the next bundle gives to hosts. Nothing is published.

    The same rules, settings and decisions always give the same bytes. Leaves with 10 where a rule
    has an error.

    \b
    Examples:
      sib-server rules compile --out /tmp/rules
      falco -c falco.yaml --validate /tmp/rules/rules/10-sib.yaml
    """
    from sib_server.detection.rules.compile import compile_rules  # noqa: PLC0415
    from sib_server.detection.rules.folder import write_folder  # noqa: PLC0415

    made = compile_rules(server.settings)
    for finding in made.errors:
        _print_finding(finding, as_json=False)
    write_folder(out, made.checked().files, replace=replace)
    warnings = len(made.findings)
    if as_json:
        sizes = {name: len(body) for name, body in made.files.items()}
        print_json({"files": sizes, "rules": len(made.entries), "warnings": warnings})
        return
    size = sum(map(len, made.files.values()))
    click.echo(f"{printable(str(out))}: {len(made.files)} files, {size} bytes, {warnings} warnings")


@rules.command()
@click.argument("names", nargs=-1, required=True, type=RULE)
@click.option("--dry-run", is_flag=True, help="Only show which rules it is about.")
@pass_server
def enable(server: ServerContext, names: tuple[str, ...], dry_run: bool) -> None:
    """Switch rules on, by id, name, technique or tag.

    \b
    Examples:
      sib-server rules enable sib-ca-001
      sib-server rules enable T1059
    """
    _switch(server, names, enabled=True, dry_run=dry_run)


@rules.command()
@click.argument("names", nargs=-1, required=True, type=RULE)
@click.option("--dry-run", is_flag=True, help="Only show which rules it is about.")
@pass_server
def disable(server: ServerContext, names: tuple[str, ...], dry_run: bool) -> None:
    """Switch rules off, by id, name, technique or tag; the last decision about a rule counts.

    To silence one program and keep the rule, use `rules tune`.

    \b
    Examples:
      sib-server rules disable --dry-run mitre_discovery
      sib-server rules disable "Terminal shell in container"
    """
    _switch(server, names, enabled=False, dry_run=dry_run)


def _switch(server: ServerContext, names: Sequence[str], *, enabled: bool, dry_run: bool) -> None:
    from sib_server.detection.rules.compile import load  # noqa: PLC0415
    from sib_server.detection.rules.decisions import with_switch  # noqa: PLC0415
    from sib_server.detection.rules.selecting import select  # noqa: PLC0415
    from sib_server.detection.rules.store import change_decisions  # noqa: PLC0415

    loaded = load(server.settings)
    known = loaded.sources.falco_known
    now = iso(time.time())
    chosen = [
        select(name, loaded.entries, now, enabled=enabled, falco_known=known) for name in names
    ]
    word = "on" if enabled else "off"
    for switch, entries in chosen:
        click.echo(f"{switch.by} {printable(switch.value)}:")
        for entry in entries:
            already = f" (already {word})" if entry.rule.enabled == enabled else ""
            click.echo(f"  {entry.id}  {printable(entry.rule.name)}{already}")
    if dry_run:
        click.echo("nothing was changed: dry run")
        return
    for switch, _ in chosen:
        change = partial(with_switch, switch=switch)
        change_decisions(server.settings.detection.directory, change)
    click.echo(f"switched {word}; hosts follow with the next bundle (sib-server bundle publish)")


def _entries(server: ServerContext) -> tuple[Entry, ...]:
    from sib_server.detection.rules.compile import load  # noqa: PLC0415

    return load(server.settings).entries
