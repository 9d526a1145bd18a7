"""`sib-server sigma`: check, convert and keep Sigma rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from sib_protocol.console import SibGroup, print_table
from sib_protocol.errors import ExitCode, FileAccessError, SettingsError
from sib_protocol.settings import parse_tree
from sib_server.detection.sigma.collection import read_files
from sib_server.detection.sigma.convert import Target, convert_files
from sib_server.detection.sigma.store import SigmaStore, changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sib_server.detection.sigma.convert import Conversion
    from sib_server.detection.sigma.store import Change


_PATHS = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
_PLACEHOLDERS = click.option(
    "--placeholders",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with the values of |expand placeholders: a mapping of name to list.",
)
_DIRECTORY = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SIB_SIGMA_DIRECTORY",
    help="Where imported rules are kept. [default: the setting sigma.directory]",
)


@click.group(cls=SibGroup)
def sigma() -> None:
    """Bring your own detections: Sigma rules for hosts and logs.

    PATHs are rule files, folders, and SigmaHQ's release zip. A rule goes to Falco (what happens on
    a host) or to Loki as LogQL (what is logged), or is refused with a reason; no rule is weakened.

    \b
      sib-server sigma check sigma_core.zip
      sib-server sigma diff sigma_core.zip
      sib-server sigma import sigma_core.zip
    """


@sigma.command()
@_PATHS
@_PLACEHOLDERS
@click.option("--strict", is_flag=True, help="End with exit code 11 where a rule is refused.")
@click.option("--all", "show_all", is_flag=True, help="Show the rules that convert, too.")
@_JSON
def check(
    paths: tuple[Path, ...],
    placeholders: Path | None,
    strict: bool,
    show_all: bool,
    as_json: bool,
) -> None:
    """Say for each rule where it would go, or why it would not.

    \b
    Examples:
      sib-server sigma check sigma_core.zip
      sib-server sigma check --all my-rules/
      sib-server sigma check --json sigma_core.zip | jq -r .reason | sort | uniq -c
    """
    found = _converted(paths, placeholders)
    shown = found if show_all else [one for one in found if one.target is Target.NONE]
    if as_json:
        for one in shown:
            row = one.row()
            del row["output"]
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        _table(shown)
        _summary(found)
    if strict and any(one.target is Target.NONE for one in found):
        raise SystemExit(ExitCode.INCOMPLETE)


@sigma.command()
@_PATHS
@_PLACEHOLDERS
@_JSON
def convert(paths: tuple[Path, ...], placeholders: Path | None, as_json: bool) -> None:
    """Print what rules become: Falco rules and ruler groups, without keeping them.

    With --json each line has id, title, path, target (falco, logql or none), output and reason. It
    needs no server and no settings.

    \b
    Examples:
      sib-server sigma convert my-rule.yml
      sib-server sigma convert --json my-rules/ | jq -r 'select(.target == "logql") | .output'
    """
    for one in _converted(paths, placeholders):
        if as_json:
            click.echo(json.dumps(one.row(), ensure_ascii=False))
        else:
            heading = f"# {one.title or one.path}: {one.target.value}"
            click.echo(f"{heading} ({one.reason})" if one.reason else f"{heading}\n{one.output}")


@sigma.command(name="import")
@_PATHS
@_PLACEHOLDERS
@_DIRECTORY
@_JSON
@click.pass_context
def import_(
    ctx: click.Context,
    paths: tuple[Path, ...],
    placeholders: Path | None,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Convert rules and keep them for the next bundle and for Loki's ruler.

    A rule whose Sigma id was imported before is updated.

    \b
    Examples:
      sib-server sigma import sigma_core.zip
      sib-server sigma import my-rules/ --placeholders accounts.yaml
    """
    found = _converted(paths, placeholders)
    store = _store(ctx, directory)
    _changes(store.put(found), as_json=as_json, difference=False)
    if not as_json:
        _summary(found)
        if any(one.target is Target.NONE for one in found):
            click.echo("why some were refused: sib-server sigma check", err=True)


@sigma.command(name="list")
@_DIRECTORY
@_JSON
@click.pass_context
def list_(ctx: click.Context, directory: Path | None, as_json: bool) -> None:
    """Show the imported rules.

    \b
    Examples:
      sib-server sigma list
      sib-server sigma list --json | jq -r 'select(.target == "none") | .reason'
    """
    rules = sorted(_store(ctx, directory).load().values(), key=lambda rule: rule.title.lower())
    if as_json:
        for rule in rules:
            row: dict[str, str | None] = {"id": rule.id, "title": rule.title, "path": rule.path}
            row |= {"target": rule.target.value, "reason": rule.reason or None}
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    print_table(
        ("id", "title", "target", "why not"),
        [(rule.id, rule.title, rule.target.value, rule.reason or "") for rule in rules],
    )


@sigma.command()
@click.argument("ids", nargs=-1, required=True)
@_DIRECTORY
@click.pass_context
def remove(ctx: click.Context, ids: tuple[str, ...], directory: Path | None) -> None:
    """Take imported rules out, by their Sigma ids.

    \b
    Example:
      sib-server sigma remove 4e25af4b-246d-44ea-8563-e42aacab006b
    """
    _changes(_store(ctx, directory).remove(ids), as_json=False, difference=False)


@sigma.command()
@_PATHS
@_PLACEHOLDERS
@_DIRECTORY
@_JSON
@click.option(
    "--complete", is_flag=True, help="PATHs are all there is: show what is no longer among them."
)
@click.pass_context
def diff(  # noqa: PLR0917 - as many as it has options
    ctx: click.Context,
    paths: tuple[Path, ...],
    placeholders: Path | None,
    directory: Path | None,
    as_json: bool,
    complete: bool,
) -> None:
    """Show what an import of these rules would change, such as a new release of SigmaHQ.

    \b
    Examples:
      sib-server sigma diff my-rules/
      sib-server sigma diff --complete sigma_core.zip
    """
    new = _converted(paths, placeholders)
    old = _store(ctx, directory).load()
    _changes(changes(old, new, complete=complete), as_json=as_json, difference=True)


def _converted(paths: Sequence[Path], placeholders: Path | None) -> list[Conversion]:
    values = _placeholder_values(placeholders)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Reading rules", total=None)
        files = []
        for file in read_files(paths):
            files.append(file)
            progress.update(task, advance=1, description=f"Reading rules ({len(files)})")
        progress.update(task, description=f"Converting {len(files)} files")
        return convert_files(files, values)


def _placeholder_values(path: Path | None) -> Mapping[str, Sequence[str]]:
    if path is None:
        return {}
    try:
        read = parse_tree(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise SettingsError(path, None, "not UTF-8 text") from error
    given = read if read is not None else {}
    well = isinstance(given, dict) and all(
        isinstance(values, list) and values and all(isinstance(v, str | int) for v in values)
        for values in given.values()
    )
    if not well:
        raise SettingsError(path, None, "not a mapping of names to lists of values")
    return {str(name): [str(value) for value in values] for name, values in given.items()}


def _store(ctx: click.Context, directory: Path | None) -> SigmaStore:
    return SigmaStore(directory or ctx.obj.settings.sigma.directory)


def _table(rows: Sequence[Conversion]) -> None:
    if not rows:
        return
    print_table(
        ("rule", "target", "why not"),
        [(one.title or one.path, one.target.value, one.reason or "") for one in rows],
    )


def _summary(rows: Sequence[Conversion]) -> None:
    count = Counter(one.target for one in rows)
    click.echo(
        f"{len(rows)} rules: {count[Target.FALCO]} to Falco, {count[Target.LOGQL]} to LogQL, "
        f"{count[Target.NONE]} refused"
    )


def _changes(found: Sequence[Change], *, as_json: bool, difference: bool) -> None:
    for change in found:
        old, new = (t.value if t else None for t in (change.old_target, change.new_target))
        if as_json:
            row: dict[str, str | None] = {
                "change": change.kind,
                "id": change.id,
                "title": change.title,
            }
            row |= {"old_target": old, "new_target": new, "diff": "\n".join(change.difference)}
            click.echo(json.dumps(row, ensure_ascii=False))
            continue
        where = new if old in (None, new) else f"{old} -> {new or 'removed'}"
        click.echo(f"{change.kind} {change.id} {change.title} ({where})")
        if difference:
            for line in change.difference[2:]:
                click.echo(f"    {line}")
    if not as_json:
        kinds = Counter(change.kind for change in found)
        click.echo(", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "no change")
