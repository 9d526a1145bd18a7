"""``sib-server events``: look into the journal, while the server runs or not."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sib_protocol.console import SibGroup
from sib_server.cli.times import MOMENT
from sib_server.events.query import PriorityFilter, Query, QueryError
from sib_server.events.reader import JournalReader
from sib_server.events.search import search
from sib_server.events.show import event_cells, event_json, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sib_server.events.damage import JournalDamage
    from sib_server.events.stored import StoredEvent

_PEOPLE_LIMIT: Final = 100
_COLOURS: Final = {
    "Emergency": "bold white on red",
    "Alert": "bold red",
    "Critical": "bold red",
    "Error": "red",
    "Warning": "yellow",
    "Notice": "cyan",
    "Informational": "green",
    "Debug": "dim",
}


class _PriorityType(click.ParamType[PriorityFilter]):
    name = "priority"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PriorityFilter:
        """Read ``warning`` or ``warning+``."""
        try:
            return PriorityFilter.parse(str(value))
        except QueryError as error:
            self.fail(f"{error.problem}; {error.remedy}", param, ctx)


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--since", type=MOMENT, help="Received at or after: 1h (ago), ISO time."),
            click.option("--until", type=MOMENT, help="Received before."),
            click.option("--host", help="Exactly this host id or name."),
            click.option("--rule", help="Exactly this rule."),
            click.option(
                "--priority", type=_PriorityType(), help="warning, or warning+ with more severe."
            ),
            click.option("--technique", help="ATT&CK id; T1003 finds T1003.008 too."),
            click.option("--text", help="Part of the event's line, in any case."),
        )
    ):
        command = option(command)
    return command


@click.group(cls=SibGroup)
def events() -> None:
    """Look into the journal."""


@events.command("search")
@_filters
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"The most events. [default: {_PEOPLE_LIMIT}; with --json all]",
)
@click.option("--oldest-first", is_flag=True, help="Instead of the newest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def search_command(
    ctx: click.Context, /, limit: int | None, oldest_first: bool, as_json: bool, **filters: Any
) -> None:
    """Find events, the newest first.

    \b
    Examples:
      sib-server events search --since 1h --priority warning+
      sib-server events search --host web-1 --technique T1003 --json
    """
    query = _query(filters, limit=limit, newest_first=not oldest_first)
    damage = _DamageNote()
    with JournalReader(ctx.obj.settings.journal.path, on_damage=damage) as reader:
        if as_json:
            _write_json(search(reader, query))
        else:
            shown = limit or _PEOPLE_LIMIT
            query = _query(filters, limit=shown + 1, newest_first=not oldest_first)
            found = list(search(reader, query))
            _show(found[:shown])
            if len(found) > shown:
                click.echo(f"There are more than these {shown}: narrow it, or --limit.", err=True)
    damage.tell()


@events.command("count")
@_filters
@click.option(
    "--by",
    type=click.Choice(["rule", "host", "priority", "technique"]),
    default="rule",
    show_default=True,
    help="What to count by.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def count_command(ctx: click.Context, /, by: str, as_json: bool, **filters: Any) -> None:
    """Count events, the most frequent first.

    \b
    Examples:
      sib-server events count --since 1d
      sib-server events count --by host --priority warning+ --since 1h
    """
    damage = _DamageNote()
    counts: Counter[str] = Counter()
    with JournalReader(ctx.obj.settings.journal.path, on_damage=damage) as reader:
        for event in search(reader, _query(filters, limit=None, newest_first=True)):
            counts.update(_keys(event, by))
    for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if as_json:
            click.echo(msgspec.json.encode({by: key, "count": count}))
        else:
            click.echo(f"{count:>10}  {plain(key) or '-'}")
    damage.tell()


class _DamageNote:
    """Counts damaged events that a search met, and says so at its end."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __call__(self, damage: JournalDamage) -> None:
        self._seen.add(damage.first)

    def tell(self) -> None:
        if self._seen:
            click.echo(
                f"{len(self._seen)} damaged events are left out; see: sib-server journal verify",
                err=True,
            )


def _query(filters: dict[str, Any], *, limit: int | None, newest_first: bool) -> Query:
    return Query(
        since_ns=filters["since"],
        until_ns=filters["until"],
        host=filters["host"],
        rule=filters["rule"],
        priority=filters["priority"],
        technique=filters["technique"],
        text=filters["text"],
        limit=limit,
        newest_first=newest_first,
    )


def _keys(event: StoredEvent, by: str) -> tuple[str, ...]:
    if by == "host":
        return (event.host_name,)
    if by == "priority":
        return (event.summary.priority.value if event.summary.priority else "",)
    if by == "technique":
        return event.summary.techniques
    return (event.summary.rule,)


def _write_json(found: Iterable[StoredEvent]) -> None:
    out = sys.stdout.buffer
    for event in found:
        out.write(event_json(event) + b"\n")
    out.flush()


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _show(found: list[StoredEvent]) -> None:
    cells = [event_cells(event) for event in found]
    if not _is_terminal():
        widths = [max((len(row[column]) for row in cells), default=0) for column in range(5)]
        for row in cells:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            click.echo("  ".join([*padded, row.output]).rstrip())
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("received", "host", "priority", "rule", "techniques", "output"):
        table.add_column(title, no_wrap=title in ("received", "priority"), overflow="fold")
    for row in cells:
        # Text, never str: rich would read markup out of a hostile event.
        table.add_row(*(Text(cell, _COLOURS.get(row.priority, "") if cell is row.priority else "")
                        for cell in row))  # fmt: skip
    Console(highlight=False).print(table)
