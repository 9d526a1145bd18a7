"""``sib-server bundle``: signed rules for the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from sib_protocol.console import SibGroup, print_json, print_table, printable
from sib_protocol.errors import ExitCode
from sib_server.cli.bundle_keys import keys
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.parameters import PERCENT
from sib_server.detection.bundles.build import (
    archives_of,
    build,
    compare,
    files_of,
    read_folder,
    read_tag_rules,
    renewed,
)
from sib_server.detection.bundles.failures import NoRolloutError
from sib_server.detection.bundles.publishing import Publisher, earlier
from sib_server.detection.bundles.releases import Stage
from sib_server.detection.bundles.status import status_view
from sib_server.detection.rules.compile import compile_rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.detection.bundles.build import Difference
    from sib_server.detection.bundles.publishing import Content

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FROM = click.option(
    "--from",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A compiled rule set: rules/*.yaml and drills/*.yaml. [default: compile one now]",
)


@click.group(cls=SibGroup)
def bundle() -> None:
    """Signed, versioned sets of rules that hosts pull and prove before they use them.

    \b
      sib-server bundle build     what would be published
      sib-server bundle publish --canary 5%
      sib-server bundle status
      sib-server bundle rollback
    """


bundle.add_command(keys)


@bundle.command()
@click.option(
    "--root-keys", default=1, show_default=True, type=click.IntRange(1, 16), help="Root keys."
)
@click.option(
    "--root-threshold",
    default=1,
    show_default=True,
    type=click.IntRange(1, 16),
    help="How many of them have to sign a new root.",
)
@_JSON
@pass_server
def init(server: ServerContext, root_keys: int, root_threshold: int, as_json: bool) -> None:
    """Make the repository and its keys. Where there is one, nothing is changed.

    Hosts that enroll from now on pin its root. Afterwards move the root key away from this
    machine: 'sib-server bundle keys export-root'.

    \b
    Examples:
      sib-server bundle init
      sib-server bundle init --root-keys 3 --root-threshold 2
    """
    if root_threshold > root_keys:
        raise click.UsageError("more root keys would have to sign than there are")
    repository = server.bundles
    made = repository.create(root_keys=root_keys, root_threshold=root_threshold)
    if as_json:
        print_json({"directory": str(repository.directory), "made": made})
    elif made:
        click.echo(f"Made the repository of bundles in {repository.directory}.")
        click.echo("Move its root key away: sib-server bundle keys export-root FILE", err=True)
    else:
        click.echo(f"There is a repository in {repository.directory} already.")


def _content(server: ServerContext, folder: Path | None) -> Content:
    if folder is not None:
        files: Mapping[str, bytes] = read_folder(folder)
    else:
        files = compile_rules(server.settings).checked().files
    return build(files, read_tag_rules(server.settings.detection.own_rules))


def _difference(server: ServerContext, content: Content) -> Difference:
    releases = server.bundles.releases()
    before = archives_of(server.bundles, releases.find(releases.newest))
    return compare(files_of(before), files_of(content.archives))


def _view(content: Content, difference: Difference) -> dict[str, Any]:
    digests = content.digests()
    return {
        "parts": {
            part: {"sha256": digests[part], "bytes": len(data)}
            for part, data in content.archives.items()
        },
        "added": list(difference.added),
        "removed": list(difference.removed),
        "changed": list(difference.changed),
    }


def _show(content: Content, difference: Difference) -> None:
    for part, data in content.archives.items():
        click.echo(f"{part}: {len(data)} bytes")
    for sign, names in (
        ("+", difference.added),
        ("-", difference.removed),
        ("~", difference.changed),
    ):
        for name in names:
            click.echo(f"{sign} {printable(name)}")
    if not difference:
        click.echo("Nothing differs from the newest bundle.")


@bundle.command("build")
@_FROM
@_JSON
@pass_server
def build_(server: ServerContext, folder: Path | None, as_json: bool) -> None:
    """Say what would be published, and what differs from the newest bundle. Publishes nothing.

    \b
    Examples:
      sib-server bundle build
      sib-server bundle build --json | jq .changed
    """
    content = _content(server, folder)
    difference = _difference(server, content)
    if as_json:
        print_json(_view(content, difference))
    else:
        _show(content, difference)


@bundle.command()
@_FROM
@click.option(
    "--canary",
    "percent",
    type=PERCENT,
    help="Only to this share of the hosts at first, like 5%; the others follow by themselves once"
    " it has proven itself, or never. [default: to all]",
)
@click.option(
    "--indicators",
    is_flag=True,
    help="Only renew the indicators of what is published; a timer does that every hour.",
)
@click.option("--note", default="", help="What it is about; kept with it.")
@click.option("--force", is_flag=True, help="Also where nothing differs from the newest bundle.")
@click.option("--dry-run", is_flag=True, help="Only say what would be published.")
@_JSON
@pass_server
def publish(
    server: ServerContext,
    folder: Path | None,
    percent: float | None,
    *,
    indicators: bool,
    note: str,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Sign the rules and bring them to the hosts.

    The rules are those of 'sib-server rules list', and for hosts with a tag also the files in a
    folder of that name beside your own rules: /etc/sib/rules.d/web/*.yaml.

    A host proves it before it uses it, watches its Falco afterwards, and goes back by itself where
    it does harm. A rollout in which too many hosts did so is stopped, and its hosts get back what
    they had.

    \b
    Examples:
      sib-server bundle publish --canary 5% --note 'new SSH rules'
      sib-server bundle publish --indicators
      sib-server bundle publish --dry-run
    """
    if indicators and (folder is not None or percent is not None):
        raise click.UsageError("--indicators goes without --from and --canary")
    follows = None
    if indicators:
        fresh = compile_rules(server.settings).checked().files
        follows = server.bundles.releases().newest
        content = renewed(server.bundles, fresh)
    else:
        content = _content(server, folder)
    difference = _difference(server, content)
    standings = server.fleet.standings()
    release = None
    if not dry_run and (difference or force):
        release = _publisher(server).publish(
            content,
            hosts=standings,
            percent=100.0 if percent is None else percent,
            note=note,
            above=max((host.version for host in standings), default=0),
            follows=follows,
        )
    if as_json:
        published = None if release is None else release.version
        print_json({"published": published, **_view(content, difference)})
        return
    _show(content, difference)
    if release is not None:
        share = "all hosts" if percent is None else f"{percent:g} % of the hosts first"
        click.echo(f"Published bundle {release.version}, to {share}.")


@bundle.command()
@click.option("--to", type=click.IntRange(min=1), help="That bundle. [default: the one before]")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_JSON
@pass_server
def rollback(
    server: ServerContext, to: int | None, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Give all hosts an earlier bundle's rules again, at once; also ends a rollout under way.

    They come under a new version: hosts take nothing older than what they have seen.

    \b
    Examples:
      sib-server bundle rollback
      sib-server bundle rollback --to 41 --dry-run
    """
    chosen = earlier(server.bundles.releases(), to)
    if not dry_run and not yes:
        click.confirm(f"Give all hosts the rules of bundle {chosen.version}?", abort=True, err=True)
    release = None
    if not dry_run:
        release = _publisher(server).roll_back(chosen.version)
    if as_json:
        published = None if release is None else release.version
        print_json({"published": published, "restores": chosen.version})
    elif release is None:
        click.echo(f"Would bring back bundle {chosen.version}.")
    else:
        click.echo(f"Published bundle {release.version}, which brings back {chosen.version}.")


@bundle.command()
@_JSON
@pass_server
def promote(server: ServerContext, as_json: bool) -> None:
    """Send the bundle that canaries have to all hosts now, without waiting any longer.

    \b
    Example:
      sib-server bundle promote
    """
    releases = server.bundles.releases()
    rollout = releases.rollout
    if rollout.candidate is None or rollout.stage is not Stage.CANARY:
        raise NoRolloutError
    following = replace(rollout, stage=Stage.ALL, since_ns=server.now_ns())
    _publisher(server).go_on(following)
    if as_json:
        print_json({"version": rollout.candidate, "stage": following.stage.value})
    else:
        click.echo(f"Bundle {rollout.candidate} goes to all hosts now.")


@bundle.command()
@_JSON
@pass_server
def status(server: ServerContext, as_json: bool) -> None:
    """Say which bundle the hosts have. Leaves with 0 when all is well, else with 11.

    \b
    Examples:
      sib-server bundle status
      sib-server bundle status --json | jq .hosts
    """
    hosts = server.fleet.hosts()
    view = status_view(
        server.bundles,
        server.fleet.standings(),
        {host.id: host.name for host in hosts},
        server.settings.bundles.policy(),
    )
    if as_json:
        print_json(view)
    else:
        _print_status(view)
    if view["problems"]:
        raise SystemExit(ExitCode.INCOMPLETE)


def _publisher(server: ServerContext) -> Publisher:
    settings = server.settings.bundles
    return Publisher(server.bundles, settings.policy(), keep=settings.keep)


def _print_status(view: dict[str, Any]) -> None:
    rollout, hosts = view["rollout"], view["hosts"]
    click.echo(f"bundle    {view['version'] or 'none yet'}")
    if rollout["candidate"] is not None:
        share = f" of {rollout['percent']:g} %" if rollout["percent"] is not None else ""
        click.echo(
            f"rollout   {rollout['stage']}{share} since {rollout['since']}:"
            f" {rollout['updated']} of {rollout['hosts']} hosts have it,"
            f" {rollout['failed']} failed, {rollout['silent']} went silent"
        )
    click.echo(
        f"hosts     {hosts['total']}: {hosts['current']} as wanted, {hosts['lagging']} lagging,"
        f" {hosts['failing']} failing, {hosts['untold']} not heard of"
    )
    for version, count in hosts["versions"].items():
        which = "none yet" if version == "0" else f"bundle {version}"
        click.echo(f"          {count} with {which}")
    for name, role in view["roles"].items():
        here = "" if role["keys_here"] >= role["threshold"] else ", key elsewhere"
        click.echo(f"{name:<10}version {role['version']}, until {role['expires']}{here}")
    if view["failing"]:
        print_table(
            ("host", "bundle", "outcome", "reason"),
            [
                (one["name"], str(one["version"]), one["outcome"], one["reason"])
                for one in view["failing"]
            ],
        )
    for problem in view["problems"]:
        click.echo(f"! {printable(problem)}")
