"""``sib-server intel hunt`` and ``explain``: stored events held against indicators."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from sib_protocol.console import print_json_line
from sib_protocol.ids import EventId
from sib_server.cli import intel_reports as reports
from sib_server.detection.indicators.enrichment import enrich
from sib_server.detection.indicators.hunt import HuntReport, hunt, seen_events
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.kinds import recognise
from sib_server.detection.indicators.sightings import SightingBook
from sib_server.detection.indicators.state import Hunted, load_hunted, save_hunted
from sib_server.events.find import find_event
from sib_server.events.outbox import Outbox
from sib_server.events.reader import JournalReader

_DAY = 86_400

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.command("hunt")
@click.argument("values", nargs=-1)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=30,
    show_default=True,
    help="How far back to search events.",
)
@click.option(
    "--new-days",
    type=click.IntRange(0, 3650),
    default=1,
    show_default=True,
    help="Without VALUES: for indicators that came in so many days.",
)
@click.option("--new", is_flag=True, help="Only for indicators that came since the last --new.")
@click.option(
    "--events",
    "events_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Search this file of event lines instead of the server's journal.",
)
@click.option("--report", is_flag=True, help="Write an event for each host that met one.")
@json_option
@click.pass_context
def hunt_command(
    context: click.Context,
    *,
    values: tuple[str, ...],
    days: int,
    new_days: int,
    new: bool,
    events_file: Path | None,
    report: bool,
    as_json: bool,
) -> None:
    """Look backwards: which hosts met an indicator before it was known to be one?

    Searches the events of the last --days for the VALUES, or without values for the indicators
    that came in the last --new-days. A timer runs it once a day with --new and --report.

    \b
    Examples:
      sib-server intel hunt
      sib-server intel hunt --new --report
      sib-server intel hunt --days 365 198.51.100.7
      sib-server intel hunt --events events.jsonl --new-days 3650 --json
    """
    settings = context.obj.settings.intel
    now = int(time.time())
    if new and values:
        raise click.UsageError("--new looks for new indicators, not for values")
    only = None
    since = now - new_days * _DAY
    if new:
        since = load_hunted(settings.directory).at or since
    if values:
        read = [recognise(value) for value in values]
        only = frozenset(observable for observable in read if observable is not None)
        if len(only) < len(set(values)):
            raise click.BadParameter("not all of them can be indicators", param_hint="VALUES")
        since = 0
    index = Index.open(settings.directory)
    try:
        if only is None and not index.has_added(since):
            # Millions of events need not be read to find that nothing is new.
            found = HuntReport()
        else:
            events = (
                reports.events_of_file(events_file)
                if events_file
                else context.obj.stored_events((now - days * _DAY) * 1_000_000_000)
            )
            found = hunt(events, index, added_since=since, only=only)
    finally:
        index.close()
    if report:
        outbox = Outbox(context.obj.settings.journal.outbox_directory)
        outbox.put(seen_events(found, time_ns=now * 1_000_000_000))
    if new:
        save_hunted(settings.directory, Hunted(now))
    for entry in reports.hunt_lines(found):
        if as_json:
            print_json_line(entry)
        else:
            click.echo(reports.hunt_sentence(entry))
    click.echo(reports.hunt_summary(found), err=True)


@click.command("explain")
@click.argument("event_id")
@json_option
@click.pass_context
def explain_command(context: click.Context, event_id: str, as_json: bool) -> None:
    """Say what threat intelligence knows of one event, and where the fleet met it before.

    EVENT_ID is as ``events search --json`` shows it. The exit code is 8 where the journal has no
    such event.

    \b
    Examples:
      sib-server intel explain 5f0c4a6e-…/17
      sib-server intel explain 5f0c4a6e-…/17 --json | jq .indicators
    """
    server = context.obj
    directory = server.settings.intel.directory
    wanted = EventId.parse(event_id)
    with JournalReader(server.settings.journal.path) as reader:
        event = find_event(reader, wanted)
    index = Index.open(directory)
    try:
        found = enrich(event.line, index, now=int(time.time()))
    finally:
        index.close()
    if found:
        book = SightingBook.open_existing(directory)
        if book is not None:
            found = book.with_history(found, event.seq)
            book.close()
    if as_json:
        print_json_line({"event_id": event_id, "indicators": msgspec.to_builtins(found)})
        return
    for sentence in reports.explain_sentences(found):
        click.echo(sentence)
