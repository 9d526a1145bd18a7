"""``sib-server rules tune``, ``tunings`` and ``undo``."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sib_protocol.console import print_json, print_json_line, print_table, printable
from sib_protocol.errors import ExitCode, SibError
from sib_protocol.ids import EventId
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.times import iso
from sib_server.detection.rules.compile import load
from sib_server.detection.rules.decisions import with_tuning, without_tunings
from sib_server.detection.rules.selecting import find_rule
from sib_server.detection.rules.store import change_decisions, load_decisions
from sib_server.detection.rules.tuning import Tally, check_readable, output_fields, propose
from sib_server.events.find import find_event
from sib_server.events.query import Query
from sib_server.events.reader import JournalReader
from sib_server.events.search import search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.rules.decisions import Tuning
    from sib_server.detection.rules.tuning import Silenced

_DAY_NS = 86_400 * 10**9


class NoSuchTuningError(SibError):
    """Nothing was tuned under such an id, or no exception of a proposal is called so."""

    exit_code = ExitCode.NOT_FOUND


class TunedAlreadyError(SibError):
    """The same exception was written before."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, tuning: Tuning) -> None:
        super().__init__(
            f"{tuning.rule}: the exception was written already, as {tuning.id} at {tuning.at}",
            "it reaches hosts with the next bundle: sib-server bundle publish",
        )


@click.command()
@click.argument("event_id")
@click.option("--exception", help="Use this exception of the rule, not the narrowest.")
@click.option(
    "--days", type=click.IntRange(1, 3650), default=30, show_default=True,
    help="How far back to look for what else would be silenced.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Write it without asking.")
@click.option("--dry-run", is_flag=True, help="Only show; the default where nobody can be asked.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@pass_server
def tune(  # noqa: PLR0917 - as many as it has options
    server: ServerContext,
    event_id: str,
    exception: str | None,
    days: int,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Silence an event by the narrowest exception of its rule.

    Of the rule's exceptions the one is taken that would have silenced the fewest events of the last
    30 days. What it would have silenced is shown before it is written. The rule is not edited; what
    is written reaches hosts with the next bundle, and `rules undo` takes it back.

    \b
    Examples:
      sib-server rules tune 2c1d…/4711
      sib-server rules tune 2c1d…/4711 --exception program_and_parent --yes
    """
    loaded = load(server.settings)
    with JournalReader(server.settings.journal.path) as reader:
        event = find_event(reader, EventId.parse(event_id))
        known = loaded.sources.falco_known
        entry = find_rule(event.summary.rule, loaded.entries, falco_known=known)
        proposals = propose(entry.rule, output_fields(event.line), loaded.rules.lists)
        tally = Tally(proposals)
        since = time.time_ns() - days * _DAY_NS
        if event.received_ns < since:
            tally.add(event.host_name, output_fields(event.line))
        for one in search(reader, Query(since_ns=since, rule=entry.rule.name, newest_first=False)):
            tally.add(one.host_name, output_fields(one.line))
    ways = tally.narrowest_first()
    chosen = _chosen(ways, exception)
    tuning = chosen.proposal.tuning(entry.rule.name, event_id, iso(time.time()))
    before = [one for one in loaded.decisions.tunings if one.id == tuning.id]
    if before:
        raise TunedAlreadyError(before[0])
    if as_json:
        written = yes and not dry_run
        print_json(_view(ways, chosen, tuning, days) | {"written": written})
    else:
        _show(ways, chosen, tuning, days)
        ask = not yes and not dry_run and sys.stdin.isatty()
        written = (yes and not dry_run) or (ask and click.confirm("Write this exception?"))
    if written:
        check_readable(entry.rule, tuning)
        change = partial(with_tuning, tuning=tuning)
        change_decisions(server.settings.detection.directory, change)
    if not as_json:
        told = f"written as {tuning.id}; hosts follow with the next bundle" if written else (
            "nothing was written; --yes writes it"
        )  # fmt: skip
        click.echo(told)


def _chosen(ways: Sequence[Silenced], exception: str | None) -> Silenced:
    if exception is None:
        return ways[0]
    for way in ways:
        if way.proposal.exception == exception:
            return way
    names = ", ".join(way.proposal.exception for way in ways)
    raise NoSuchTuningError(f"no exception {exception!r} silences the event", f"those do: {names}")


def _view(ways: Sequence[Silenced], chosen: Silenced, tuning: Tuning, days: int) -> dict[str, Any]:
    return {
        "tuning": tuning,
        "days": days,
        "silenced": chosen.events,
        "unknown": chosen.unknown,
        "kept": chosen.kept,
        "hosts": chosen.hosts,
        "samples": [{"host": host, "fields": dict(fields)} for host, fields in chosen.samples],
        "others": [
            {
                "exception": way.proposal.exception,
                "fields": way.proposal.fields,
                "values": way.proposal.values,
                "silenced": way.events,
            }
            for way in ways
            if way is not chosen
        ],
    }


def _show(ways: Sequence[Silenced], chosen: Silenced, tuning: Tuning, days: int) -> None:
    click.echo(f"rule       {printable(tuning.rule)}")
    added = " (added to the rule)" if tuning.adds_exception else ""
    click.echo(f"exception  {printable(tuning.exception)}{added}")
    for field, value in zip(tuning.fields, tuning.values, strict=True):
        click.echo(f"             {field} = {printable(value)}")
    total = chosen.events + chosen.unknown + chosen.kept
    click.echo(
        f"in the last {days} days it would have silenced {chosen.events} of the rule's {total} "
        "events, this one included" + (f"; {chosen.unknown} tell too little" * bool(chosen.unknown))
    )
    for host, count in sorted(chosen.hosts.items(), key=lambda pair: (-pair[1], pair[0]))[:10]:
        click.echo(f"  {count:6}  on {printable(host)}")
    for host, fields in chosen.samples:
        about = fields.get("proc.cmdline") or fields.get("proc.name") or "-"
        user = printable(fields.get("user.name", "-"))
        click.echo(f"  such as {printable(about)[:120]} by {user} on {printable(host)}")
    for way in ways:
        if way is not chosen:
            click.echo(
                f"wider or other: --exception {printable(way.proposal.exception)} "
                f"({', '.join(way.proposal.fields)}) would have silenced {way.events}"
            )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@pass_server
def tunings(server: ServerContext, as_json: bool) -> None:
    """List what was tuned, oldest first.

    \b
    Example:
      sib-server rules tunings --json | jq -r .rule | sort | uniq -c
    """
    known = load_decisions(server.settings.detection.directory).tunings
    if as_json:
        for one in known:
            print_json_line(one)
        return
    print_table(
        ["id", "at", "rule", "exception", "values"],
        [[one.id, one.at, one.rule, one.exception, ", ".join(one.values)] for one in known],
    )


@click.command()
@click.argument("ids", nargs=-1, required=True)
@pass_server
def undo(server: ServerContext, ids: tuple[str, ...]) -> None:
    """Take tunings back, by their ids of `rules tunings`.

    \b
    Example:
      sib-server rules undo t1f0c2ab3
    """
    directory = server.settings.detection.directory
    known = {one.id: one for one in load_decisions(directory).tunings}
    for identity in ids:
        if identity not in known:
            raise NoSuchTuningError(
                f"nothing was tuned as {identity!r}", "`sib-server rules tunings` shows all"
            )
    change_decisions(directory, partial(without_tunings, ids=ids))
    for identity in ids:
        click.echo(
            f"{identity}: {printable(known[identity].rule)} fires again with the next bundle"
        )
