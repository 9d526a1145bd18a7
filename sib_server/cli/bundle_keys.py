"""``sib-server bundle keys``: the keys that bundles are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sib_protocol.console import SibGroup, print_json, print_table
from sib_protocol.errors import FileAccessError
from sib_server.cli.context import ServerContext, pass_server
from sib_server.detection.bundles.keys import ROOT, load_key
from sib_server.detection.bundles.metadata import ONLINE_ROLES
from sib_server.detection.bundles.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import CryptoSigner

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(dir_okay=False, path_type=Path)
_ROOT_KEY = click.option(
    "--root-key",
    "root_keys",
    multiple=True,
    type=_FILE,
    help="An exported root key; may be repeated. Those on this machine need not be named.",
)
_PASSPHRASE = click.option(
    "--passphrase-file",
    type=_FILE,
    help="Read the passphrase from a file instead of asking for it.",
)
_MOST = 4096


def _passphrase(file: Path | None, what: str, *, new: bool = False) -> str:
    if file is None:
        text: str = click.prompt(what, hide_input=True, confirmation_prompt=new, err=True)
        return text
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(_MOST).rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FileAccessError(file, str(error)) from error


def _signers(paths: Sequence[Path], passphrase_file: Path | None) -> list[CryptoSigner]:
    return [load_key(path, _passphrase(passphrase_file, f"Passphrase of {path}")) for path in paths]


@click.group(cls=SibGroup)
def keys() -> None:
    """The keys of the repository: the root's, which belongs elsewhere, and those in daily use."""


def _view(repository: Repository) -> list[dict[str, Any]]:
    root = repository.root()
    return [
        {
            "role": role,
            "keyid": keyid,
            "here": bool(repository.keys.present(role, [keyid])),
            "threshold": root.roles[role].threshold,
        }
        for role in (ROOT, *ONLINE_ROLES)
        for keyid in root.roles[role].keyids
    ]


@keys.command("list")
@_JSON
@pass_server
def list_(server: ServerContext, as_json: bool) -> None:
    """List the keys that the root in force names, and whether they are on this machine.

    \b
    Example:
      sib-server bundle keys list
    """
    view = _view(server.bundles)
    if as_json:
        print_json(view)
        return
    print_table(
        ("role", "key", "here", "must sign"),
        [
            (one["role"], one["keyid"][:16], "yes" if one["here"] else "no", str(one["threshold"]))
            for one in view
        ],
    )


@keys.command("export-root")
@click.argument("file", type=_FILE)
@_PASSPHRASE
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_JSON
@pass_server
def export_root(
    server: ServerContext, file: Path, passphrase_file: Path | None, yes: bool, as_json: bool
) -> None:
    """Move a root key to FILE, on a stick say, encrypted; it is then no longer on this machine.

    It is needed again to sign a root: every few years, and to replace another key. Of several root
    keys each call moves the next one.

    \b
    Examples:
      sib-server bundle keys export-root /media/stick/sib-root.pem
      sib-server bundle keys renew-root --root-key /media/stick/sib-root.pem
    """
    repository = server.bundles
    root = repository.root()
    here = [
        keyid for keyid in root.roles[ROOT].keyids if repository.keys.present(ROOT, [keyid])
    ] or root.roles[ROOT].keyids
    passphrase = _passphrase(passphrase_file, "Passphrase for the exported key", new=True)
    if not yes:
        click.confirm(f"Move the root key to {file} and remove it here?", abort=True, err=True)
    with repository.locked():
        repository.keys.export(ROOT, here[0], file, passphrase)
    if as_json:
        print_json({"file": str(file), "keyid": here[0]})
    else:
        click.echo(
            f"The root key is in {file} and nowhere else. Keep it, and its passphrase, safe."
        )


@keys.command("renew-root")
@_ROOT_KEY
@_PASSPHRASE
@_JSON
@pass_server
def renew_root(
    server: ServerContext, root_keys: Sequence[Path], passphrase_file: Path | None, as_json: bool
) -> None:
    """Sign the root anew, so that it is valid for longer.

    With the root key on this machine the running server does so by itself.

    \b
    Example:
      sib-server bundle keys renew-root --root-key /media/stick/sib-root.pem
    """
    signers = _signers(root_keys, passphrase_file)
    with server.bundles.locked():
        root = server.bundles.renew_root(signers)
    if as_json:
        print_json({"version": root.version, "expires": root.expires.isoformat()})
    else:
        click.echo(f"Root {root.version} is valid until {root.expires:%Y-%m-%d}.")


@keys.command()
@click.argument("role", type=click.Choice([ROOT, *ONLINE_ROLES]))
@_ROOT_KEY
@_PASSPHRASE
@_JSON
@pass_server
def rotate(
    server: ServerContext,
    role: str,
    root_keys: Sequence[Path],
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Replace a role's keys by new ones: when one may be in wrong hands, or is lost.

    Hosts learn of them by a root that the root keys sign; the old keys are worth nothing then. Of
    several root keys all are replaced, and as many have to sign as before: export the new ones.

    \b
    Example:
      sib-server bundle keys rotate targets --root-key /media/stick/sib-root.pem
    """
    signers = _signers(root_keys, passphrase_file)
    with server.bundles.locked():
        root = server.bundles.rotate(role, signers)
    keyids = root.roles[role].keyids
    if as_json:
        print_json({"role": role, "keyid": keyids[0], "keyids": keyids, "root": root.version})
        return
    told = ", ".join(keyid[:16] for keyid in keyids)
    click.echo(f"The {role} key is {told} now, by root {root.version}.")
    if role == ROOT:
        click.echo("Move it away: sib-server bundle keys export-root FILE", err=True)
