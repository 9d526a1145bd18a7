"""``sib-server backup``, ``restore`` and ``backup-key``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sib_protocol.console import print_json, printable
from sib_protocol.errors import ExitCode, SibError
from sib_protocol.files import sync_directory, write_synced
from sib_server.cli.context import ServerContext, pass_server
from sib_server.cli.times import iso_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from sib_server.operations.backup.run import BackupReport, RestoreReport
    from sib_server.operations.backup.sealing import Identity

_FILE = click.Path(dir_okay=False, path_type=Path)
_MOST_SECRET = 64 * 1024


class BackupExistsError(SibError):
    """There is a file of this name already."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is there already", "give the file another name")


class NoKeyError(SibError):
    """Nothing says how to encrypt."""

    exit_code = ExitCode.USAGE

    def __init__(self) -> None:
        super().__init__(
            "nothing says how the backup is encrypted",
            "name --recipient or --passphrase-file, or set backup.recipients",
        )


@click.command("backup-key")
@click.argument("file", type=_FILE)
def backup_key(file: Path) -> None:
    """Make a key for backups: FILE gets the secret half, stdout the public one.

    Whoever has FILE can read the backups and whoever loses it cannot: keep it off this server.

    \b
    Example:
      sib-server backup-key /media/safe/sib-backup.key
    """
    from sib_server.operations.backup.sealing import make_identity  # noqa: PLC0415

    secret, public = make_identity()
    try:
        write_synced(file, f"# public key: {public}\n{secret}\n".encode(), 0o600)
    except FileExistsError as error:
        raise BackupExistsError(file) from error
    click.echo(public)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--recipient", "recipients", multiple=True, help="Public key, age1…; repeatable.")
@click.option("--passphrase-file", type=_FILE, help="Its first line; instead of a key.")
@click.option("--journal", is_flag=True, help="With the journal, which can be large.")
@click.option("--without-state", is_flag=True, help="Where the state is in PostgreSQL.")
@click.option(
    "--work-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="For copies meanwhile; the server's user writes there. [default: the server's own]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what is in it as JSON.")
@pass_server
def backup(
    server: ServerContext,
    /,
    *,
    file: Path,
    recipients: tuple[str, ...],
    passphrase_file: Path | None,
    journal: bool,
    without_state: bool,
    work_directory: Path | None,
    as_json: bool,
) -> None:
    """Back this server up into FILE (- is stdout), encrypted, while it runs.

    In it: the CA with its keys, state, configuration, rules, bundles with their keys, Sigma rules
    and indicators; with --journal the events too. The format is age's, around a tar.gz.

    \b
    Examples:
      sib-server backup /backup/sib.age --recipient age1…
      sib-server backup - --journal | ssh safe 'cat > sib.age'
    """
    from sib_server.operations.backup.run import back_up  # noqa: PLC0415
    from sib_server.operations.backup.sealing import (  # noqa: PLC0415
        parse_recipient,
        seal,
        seal_with_passphrase,
    )

    chosen = recipients or (() if passphrase_file else server.settings.backup.recipients)
    keys = [parse_recipient(text) for text in chosen]
    passphrase = None if keys else _new_passphrase(passphrase_file)

    def run(target: BinaryIO) -> BackupReport:
        def put(chunks: Iterator[bytes], size: int) -> None:
            if passphrase is None:
                seal(chunks, target, keys)
            else:
                seal_with_passphrase(chunks, target, passphrase, size)

        return back_up(
            server.settings,
            server.settings_file,
            put,
            journal=journal,
            state=not without_state,
            work=work_directory,
        )

    if str(file) == "-":
        if sys.stdout.isatty():
            raise click.UsageError("a backup is nothing for a terminal: redirect it")
        report = run(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        report = _into_file(file, run)
    if as_json:
        if str(file) != "-":
            print_json(report)
        return
    click.echo(f"{report.files} files, {report.size} bytes: {', '.join(report.parts)}", err=True)
    for problem in report.left_out:
        click.echo(f"left out: {printable(problem)}", err=True)


def _into_file(file: Path, run: Callable[[BinaryIO], BackupReport]) -> BackupReport:
    if file.exists():
        raise BackupExistsError(file)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target:
            report = run(target)
            target.flush()
            os.fsync(descriptor)
        # link(), not rename(): another's file of that name stays.
        file.hardlink_to(temporary)
        sync_directory(file.parent)
    except FileExistsError as error:
        raise BackupExistsError(file) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return report


def _new_passphrase(file: Path | None) -> str:
    from sib_server.operations.backup.sealing import check_passphrase  # noqa: PLC0415

    if file is not None:
        return check_passphrase(_first_line(file), str(file))
    if not sys.stdin.isatty():
        raise NoKeyError
    typed: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return check_passphrase(typed, "what was typed")


def _first_line(file: Path) -> str:
    with file.open("rb") as opened:
        lines = opened.read(_MOST_SECRET).decode("utf-8", "replace").splitlines()
    return lines[0] if lines else ""


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("--key-file", type=_FILE, help="The secret key that backup-key made.")
@click.option("--passphrase-file", type=_FILE, help="Its first line.")
@click.option("--replace", is_flag=True, help="Set aside what is there.")
@click.option("--keep-config", is_flag=True, help="Leave this machine's configuration as it is.")
@click.option("--dry-run", is_flag=True, help="Only read and verify all of it; the server may run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_server
def restore(
    server: ServerContext,
    /,
    *,
    file: Path,
    key_file: Path | None,
    passphrase_file: Path | None,
    replace: bool,
    keep_config: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put a backup in place, on this machine or for another that is lost. The server is stopped.

    All of FILE is read and verified first. What is there is refused, or with --replace set aside
    under its name with .before-restore- and the time. Agents go on by themselves when the server
    can be reached under the addresses that they know.

    \b
    Examples:
      sib-server restore /media/sib.age --key-file /media/safe/sib-backup.key --dry-run
      systemctl stop sib-server.target
      sib-server restore /media/sib.age --key-file /media/safe/sib-backup.key --replace
    """
    from sib_server.operations.backup import run  # noqa: PLC0415

    with file.open("rb") as source:
        key = _opening_key(source, key_file, passphrase_file)
        own = server.settings if keep_config else None
        with run.opened(source, key, server.settings_file, own) as staged:
            report = run.restore(staged, replace=replace, dry_run=dry_run)
    if as_json:
        print_json(report)
    else:
        _show(report, dry_run=dry_run)


def _opening_key(
    source: BinaryIO, key_file: Path | None, passphrase_file: Path | None
) -> str | list[Identity]:
    from sib_server.operations.backup.sealing import (  # noqa: PLC0415
        needs_passphrase,
        parse_identities,
    )

    if needs_passphrase(source):
        if passphrase_file is not None:
            return _first_line(passphrase_file)
        if not sys.stdin.isatty():
            raise click.UsageError("this backup needs --passphrase-file")
        typed: str = click.prompt("Passphrase", hide_input=True, err=True)
        return typed
    if key_file is None:
        raise click.UsageError("this backup needs --key-file")
    with key_file.open("rb") as opened:
        text = opened.read(_MOST_SECRET).decode("utf-8", "replace")
    return parse_identities(text, str(key_file))


def _show(report: RestoreReport, *, dry_run: bool) -> None:
    click.echo(
        f"Backup of {printable(report.machine)}, {iso_ns(report.taken_ns)}, made by SIB"
        f" {printable(report.version)}."
    )
    for part, place in report.places.items():
        click.echo(f"  {part:<8}  {'would go to' if dry_run else 'is in'} {place}")
    for path in report.set_aside:
        click.echo(f"  {'would be set aside' if dry_run else 'set aside'}: {path}")
    if not dry_run:
        click.echo(
            "Now: systemctl start sib-server.target; sib-server doctor; then look over"
            " 'sib-server host list' and remove the hosts that you had removed since the backup."
        )
