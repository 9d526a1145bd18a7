"""``sib-server intel``: feeds, indicators, and what the fleet met of them. No logic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from sib_protocol.console import SibGroup, print_json_line, print_table
from sib_protocol.errors import ExitCode
from sib_server.cli import intel_reports as reports
from sib_server.cli.intel_hunt import explain_command, hunt_command, json_option
from sib_server.cli.intel_progress import FeedProgress
from sib_server.detection.indicators.catalogue import (
    FeedDefinition,
    UnknownFeedError,
    find_feed,
)
from sib_server.detection.indicators.curation import forget_feed, purge_excluded, read_anew
from sib_server.detection.indicators.enrichment import enrichment_of
from sib_server.detection.indicators.formats.shape import Format, Shape
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.kinds import Kind, recognise
from sib_server.detection.indicators.own import own_values
from sib_server.detection.indicators.rules import NoRoom, choose, not_shipped, rule_document
from sib_server.detection.indicators.settings import IntelSettings, all_feeds
from sib_server.detection.indicators.state import (
    AllowedValue,
    AllowList,
    load_allowed,
    load_states,
    save_allowed,
)
from sib_server.detection.indicators.update import FeedReport, Hooks, update
from sib_server.events.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Sequence


def _settings(context: click.Context) -> IntelSettings:
    settings = context.obj.settings.intel
    if not isinstance(settings, IntelSettings):  # pragma: no cover - a mistake in the program
        raise TypeError("the context holds no threat intelligence settings")
    return settings


def _outbox(context: click.Context) -> Outbox:
    return Outbox(context.obj.settings.journal.outbox_directory)


@click.group(cls=SibGroup)
def intel() -> None:
    """Threat intelligence: feeds, indicators, and where the fleet met them.

    \b
      sib-server intel update
      sib-server intel status
      sib-server intel lookup 198.51.100.7 'hxxp://bad[.]example'
      sib-server intel hunt --days 90
    """


def _no_room(settings: IntelSettings) -> tuple[NoRoom, ...]:
    index = Index.open(settings.directory)
    try:
        return not_shipped(index, settings.shipping)
    finally:
        index.close()


def _run_update(
    context: click.Context,
    feeds: Sequence[FeedDefinition],
    *,
    as_json: bool,
    source: Path | None = None,
    elsewhere: bool = False,
    accept: bool = False,
) -> None:
    def tell(report: FeedReport) -> None:
        if as_json:
            print_json_line(reports.feed_line(report))
        else:
            click.echo(reports.feed_sentence(report))

    outbox = _outbox(context)
    with FeedProgress() as screen:
        hooks = Hooks(
            lambda line: outbox.put([line]), screen.begin, screen.progress, lambda _report: None
        )
        outcome = update(
            _settings(context),
            feeds,
            now=int(time.time()),
            hooks=hooks,
            own=own_values(),
            source=source,
            elsewhere=elsewhere,
            accept=accept,
        )
    for report in outcome.feeds:
        tell(report)
    for left in _no_room(_settings(context)):
        click.echo(reports.no_room_sentence(left), err=True)
    if outcome.refused:
        raise click.exceptions.Exit(ExitCode.INCOMPLETE)


@intel.command("update")
@click.option("--feed", "names", multiple=True, help="Only this feed, even if it is off.")
@click.option("--from", "place", help="Take the one feed from this file or URL instead.")
@click.option("--accept", is_flag=True, help="Take it however much it shrank or grew.")
@json_option
@click.pass_context
def update_command(
    context: click.Context, names: tuple[str, ...], place: str | None, accept: bool, as_json: bool
) -> None:
    """Bring feeds up to date.

    A feed whose owner's interval is not over is not asked. One that cannot be trusted (a web page,
    no indicators, far fewer or more than before, too large, too slow) keeps its last good version;
    the exit code is 11 then, and an event says why.

    \b
    Examples:
      sib-server intel update
      sib-server intel update --feed spamhaus-drop
      sib-server intel update --feed feodo --from ipblocklist.csv
      sib-server intel update --feed feodo --from https://mirror.example.net/feodo.csv
    """
    settings = _settings(context)
    known = all_feeds(settings)
    chosen = [find_feed(known, name) for name in names] or [feed for feed in known if feed.enabled]
    if (place or accept) and len(names) != 1:
        raise click.UsageError("--from and --accept go with exactly one --feed")
    source: Path | None = None
    elsewhere = False
    if place is not None:
        if "://" in place:
            elsewhere = not reports.same_host(place, chosen[0].url)
            chosen = [reports.moved(chosen[0], place)]
        else:
            source = Path(place)
    _run_update(context, chosen, as_json=as_json, source=source, elsewhere=elsewhere, accept=accept)


@intel.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--feed", "name", default="imported", show_default=True, help="Under this name.")
@click.option(
    "--format",
    "written",
    type=click.Choice([form.value for form in Format if form is not Format.CSV]),
    default="text",
    show_default=True,
    help="How the file is written; define a feed in the settings for CSV.",
)
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="Of all entries.")
@click.option(
    "--confidence",
    type=click.IntRange(0, 100),
    default=80,
    show_default=True,
    help="How sure they are, where the file does not say.",
)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="To live."
)
@json_option
@click.pass_context
def import_command(
    context: click.Context,
    *,
    file: Path,
    name: str,
    written: str,
    kind: str | None,
    confidence: int,
    days: int,
    as_json: bool,
) -> None:
    """Take indicators from a file of your own.

    They are excluded, merged and expire like those of any feed.

    \b
    Examples:
      sib-server intel import bad-addresses.txt --confidence 95
      sib-server intel import report.json --format stix --feed cert-2026-11
      sib-server intel import event.json --format misp --days 30
    """
    if name in {feed.name for feed in all_feeds(_settings(context))}:
        # It would take the place of what the feed said, and be replaced by its next download.
        raise click.BadParameter(
            f"{name} is a feed; give it a file by: intel update --feed {name} --from {file}",
            param_hint="--feed",
        )
    shape = Shape(format=Format(written), kind=Kind(kind) if kind else None)
    try:
        feed = msgspec.convert(
            {
                "name": name,
                "url": "https://localhost/",
                "licence": "your own",
                "confidence": confidence,
                "expires_days": days,
            },
            FeedDefinition,
        )
    except msgspec.ValidationError as error:
        raise click.BadParameter(str(error), param_hint="--feed") from error
    feed = msgspec.structs.replace(feed, shape=shape)
    _run_update(context, [feed], as_json=as_json, source=file, accept=True)


@intel.command("status")
@json_option
@click.pass_context
def status_command(context: click.Context, as_json: bool) -> None:
    """What each feed has, when it was asked, and what is wrong with it.

    \b
    Examples:
      sib-server intel status
      sib-server intel status --json | jq '.feeds[] | select(.trouble)'
    """
    settings = _settings(context)
    states = load_states(settings.directory).feeds
    index = Index.open(settings.directory)
    try:
        counts = index.counts()
        updated = index.updated
        left_out = not_shipped(index, settings.shipping)
    finally:
        index.close()
    lines = reports.status_lines(all_feeds(settings), states)
    if as_json:
        kinds = {kind.value: count for kind, count in counts.items()}
        left = msgspec.to_builtins(left_out)
        print_json_line(
            {"updated": updated, "indicators": kinds, "not_shipped": left, "feeds": lines}
        )
        return
    now = int(time.time())
    print_table(
        ("feed", "on", "indicators", "taken", "state"),
        [reports.status_cells(line, now) for line in lines],
    )
    total = ", ".join(f"{count} {kind.value}" for kind, count in counts.items())
    click.echo(f"indicators: {total or 'none yet; run sib-server intel update'}")
    for one in left_out:
        click.echo(reports.no_room_sentence(one))


@intel.command("forget")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_context
def forget_command(context: click.Context, name: str, dry_run: bool) -> None:
    """Drop all that one feed, or one file of your own, ever said.

    What other feeds say, too, stays. A feed that is on comes back with its next update: switch it
    off in the settings first.

    \b
    Examples:
      sib-server intel forget cert-2026-11
      sib-server intel forget feodo --dry-run
    """
    settings = _settings(context)
    states = load_states(settings.directory).feeds
    if name not in states:
        raise UnknownFeedError(name, tuple(sorted(states)))
    if dry_run:
        click.echo(f"{states[name].indicators} indicators of {name} would go")
        return
    gone = forget_feed(settings, name, now=int(time.time()))
    click.echo(f"{gone} indicators of {name} went")
    feed = next((one for one in all_feeds(settings) if one.name == name), None)
    if feed is not None and feed.enabled:
        click.echo(f"the next update brings {name} back: it is on", err=True)


@intel.command("lookup")
@click.argument("values", nargs=-1, required=True)
@json_option
@click.pass_context
def lookup_command(context: click.Context, values: tuple[str, ...], as_json: bool) -> None:
    """Say what is known of addresses, networks, domains, URLs and hashes.

    An address meets the networks that hold it, a domain those above it, a URL its host.
    ``hxxp`` and ``[.]`` are understood. The exit code is 2 where a value can be no indicator.

    \b
    Examples:
      sib-server intel lookup 198.51.100.7 evil.example.net
      sib-server intel lookup --json 44d88612fea8a8f36de82e1278abb02f
    """
    index = Index.open(_settings(context).directory)
    now = int(time.time())
    nothing = False
    try:
        for value in values:
            observable = recognise(value)
            matches = index.lookup(value)
            nothing = nothing or matches is None
            found = [enrichment_of("", match, now=now) for match in matches or ()]
            if as_json:
                print_json_line(reports.lookup_line(value, observable, found))
            else:
                for sentence in reports.lookup_sentences(value, observable, found):
                    click.echo(sentence)
    finally:
        index.close()
    if not index.updated:
        click.echo("no feed was taken yet, so nothing is known: sib-server intel update", err=True)
    if nothing:
        raise click.exceptions.Exit(ExitCode.USAGE)


@intel.command("allow")
@click.argument("values", nargs=-1)
@click.option("--reason", default="", help="Why, for those who come after you.")
@click.option("--remove", is_flag=True, help="Take the values off the list.")
@json_option
@click.pass_context
def allow_command(
    context: click.Context, values: tuple[str, ...], reason: str, remove: bool, as_json: bool
) -> None:
    """Say what is never an indicator; without values, show the list.

    A network allows all addresses in it and a domain all names below it. Indicators that become
    allowed go at once; what is taken off the list comes back when its feed is due.

    \b
    Examples:
      sib-server intel allow 192.0.2.10 --reason "our scanner"
      sib-server intel allow partner.example.net 198.51.100.0/24
      sib-server intel allow --remove 192.0.2.10
    """
    settings = _settings(context)
    listed = {line.value: line for line in load_allowed(settings.directory).values}
    for value in values:
        observable = recognise(value)
        if observable is None:
            raise click.BadParameter(
                f"{value!r} is no address, network, domain, URL or hash", param_hint="VALUES"
            )
        if remove:
            listed.pop(observable.value, None)
        else:
            listed[observable.value] = AllowedValue(observable.value, reason, int(time.time()))
    if values:
        kept = AllowList(tuple(sorted(listed.values(), key=lambda line: line.value)))
        save_allowed(settings.directory, kept)
        if remove:
            read_anew(settings)
        gone = purge_excluded(settings, now=int(time.time()), own=own_values())
        click.echo(f"{gone} indicators went", err=True)
    for line in sorted(listed.values(), key=lambda line: line.value):
        if as_json:
            print_json_line(line)
        else:
            click.echo(f"{line.value}  {line.reason}".rstrip())


@intel.command("rules")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Into this file.")
@click.pass_context
def rules_command(context: click.Context, output: Path | None) -> None:
    """Print the Falco rules that hosts are given, made from the present indicators.

    \b
    Examples:
      sib-server intel rules | less
      sib-server intel rules --output /tmp/sib-indicators.yaml
    """
    settings = _settings(context)
    index = Index.open(settings.directory)
    try:
        shipment = choose(index.indicators(), settings.shipping)
    finally:
        index.close()
    document = rule_document(shipment, inbound_networks=settings.shipping.inbound_networks)
    if output is None:
        click.echo(document)
    else:
        output.write_text(document, encoding="utf-8")
    for kind, count in shipment.left_out.items():
        click.echo(f"looked up on the server only: {count} {kind.value}", err=True)


intel.add_command(hunt_command)
intel.add_command(explain_command)
