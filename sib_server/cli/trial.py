"""``sib-server try``."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.live import Live

from sib_server.trial.arrivals import live_table, text_table
from sib_server.trial.errors import TrialDirectoryError
from sib_server.trial.feed import find_falco
from sib_server.trial.layout import TrialLayout, free_port
from sib_server.trial.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is None:
        made = Path(tempfile.mkdtemp(prefix="sib-try-"))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    if given.exists() and (not given.is_dir() or any(given.iterdir())):
        raise TrialDirectoryError(given)
    given.mkdir(mode=0o700, parents=True, exist_ok=True)
    yield given.resolve()


@contextmanager
def _display(trial: Trial) -> Iterator[Callable[[], None]]:
    """Redraws a table on a terminal; says nothing meanwhile elsewhere."""
    if not sys.stdout.isatty():
        with nullcontext():
            yield lambda: None
        return
    with Live(refresh_per_second=10) as live:
        yield lambda: live.update(
            live_table(trial.counts, f"{trial.counts.total()} events in the journal")
        )


def _hints(layout: TrialLayout) -> None:
    program = shlex.quote(sys.argv[0])
    config = shlex.quote(str(layout.server_settings))
    agent = f"{program[: -len('server')]}agent" if program.endswith("server") else "sib-agent"
    click.echo(
        "\nLook further, in another terminal:\n"
        f"  {program} --config {config} events search --priority critical\n"
        f"  {program} --config {config} events search --technique T1552 --json\n"
        f"  {program} --config {config} host list\n"
        f"  {agent} --config {shlex.quote(str(layout.agent_settings))} status\n"
        f'  echo \'{{"rule":"mine"}}\' >> {shlex.quote(str(layout.events_file))}\n'
        "Ctrl-C ends it."
    )


@click.command(name="try")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    help="Keep everything in this directory; it must be empty. [default: a temporary one]",
)
@click.option("--exit", "and_exit", is_flag=True, help="End after the feed; 0 if it was exact.")
@click.option(
    "--recorded", is_flag=True, help="Feed the recorded alerts even if a real Falco could run."
)
def try_command(directory: Path | None, and_exit: bool, recorded: bool) -> None:
    """Show a whole SIB at work, here and now: without root, without installing anything.

    A server on loopback, a token, a real agent that enrolls by it and brings home over mutual TLS
    what a real Falco wrote while two hosts were misused. With root and a falco on the PATH, it is
    that Falco's own alerts instead, of what happens on this machine now.

    \b
    Examples:
      sib-server try
      sib-server try --exit
      sib-server try --directory ./trial --recorded
    """
    # A real Falco has no end that could be checked.
    falco = None if recorded or and_exit else find_falco()
    with _directory(directory) as place:
        layout = TrialLayout(place, free_port(), free_port())
        click.echo(f"server and agent on loopback port {layout.port}, in {place}")
        try:
            with Trial(layout, falco) as trial:
                if falco is not None:
                    click.echo(f"Falco at {falco} watches this machine: try 'cat /etc/shadow'")
                    _hints(layout)
                with _display(trial) as show:
                    trial.gather(show)
                if not sys.stdout.isatty():
                    click.echo(text_table(trial.counts))
                found = trial.check()
                click.echo(
                    f"{found.written} lines written as Falco writes them,"
                    f" {found.stored} stored, each exactly once"
                )
                if and_exit:
                    return
                _hints(layout)
                trial.follow(lambda: None)
        except KeyboardInterrupt:
            click.echo("")
