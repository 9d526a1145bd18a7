"""GnuPG, as far as a repository needs it: one key, signatures of text and of files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Final

from sib_packaging.errors import PackagingError

# rpm on EL 9 knows RSA for certain; newer kinds only in part.
_KEY_KIND: Final = "rsa4096"
_LIFE: Final = "5y"


@dataclass(frozen=True, slots=True)
class Key:
    """A repository's signing key.

    Attributes:
        fingerprint: 40 hex digits.
        home: the GNUPGHOME that holds its secret part.
        made: when it was made, in seconds since 1970.
    """

    fingerprint: str
    home: Path
    made: int

    def command(self, epoch: int) -> list[str]:
        """gpg with this key, its clock stopped, so that the same input has the same signature."""
        # A signature older than its key would be refused.
        moment = datetime.fromtimestamp(max(epoch, self.made), tz=timezone.utc)
        return [
            *("gpg", "--homedir", str(self.home), "--batch", "--yes", "--no-tty", "--quiet"),
            *("--faked-system-time", moment.strftime("%Y%m%dT%H%M%S!")),
            *("--local-user", self.fingerprint, "--digest-algo", "SHA512"),
        ]


def run(command: Sequence[str], *, stdin: bytes = b"", home: Path | None = None) -> bytes:
    """A program's output.

    Raises:
        PackagingError: it is not there, or it fails.
    """
    if shutil.which(command[0]) is None:
        raise PackagingError(f"{command[0]} is not there: install it by your package manager")
    environment = {**os.environ, "LC_ALL": "C"}
    if home is not None:
        environment["GNUPGHOME"] = str(home)
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise PackagingError(f"{command[0]} failed: {said}")
    return done.stdout


def find_key(home: Path, wanted: str) -> Key:
    """A key that can sign.

    Args:
        home: GNUPGHOME.
        wanted: fingerprint; a shorter id could be somebody else's key.

    Raises:
        PackagingError: there is none, or it has expired.
    """
    fingerprint = wanted.replace(" ", "").upper().removeprefix("0X")
    if not re.fullmatch(r"[0-9A-F]{40}", fingerprint):
        raise PackagingError(f"{wanted} is no fingerprint: give all of its 40 hex digits")
    listed = run(
        ["gpg", "--homedir", str(home), "--batch", "--with-colons", "--list-secret-keys"]
    ).decode()
    lines = [line.split(":") for line in listed.splitlines()]
    for fields, below in pairwise(lines):
        if fields[0] == "sec" and below[9:10] == [fingerprint]:
            if fields[1] in {"e", "r", "d", "i"}:
                raise PackagingError(f"the key {fingerprint} is expired, revoked or disabled")
            return Key(fingerprint, home, int(fields[5]))
    raise PackagingError(f"{home} has no secret key {fingerprint}")


def make_key(home: Path, owner: str) -> Key:
    """A new key without a passphrase: who reads the folder can sign.

    Args:
        home: GNUPGHOME; made with mode 0700.
        owner: ``Name <mail>``.

    Raises:
        PackagingError: there is one of that owner already, or gpg fails.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--with-colons"]
    known = run([*gpg, "--list-secret-keys"]).decode()
    for line in known.splitlines():
        fields = line.split(":")
        if fields[0] == "uid" and fields[9] == owner:
            raise PackagingError(f"{home} has a key of {owner} already: give it with --key")
    secret = ("--pinentry-mode", "loopback", "--passphrase", "")
    said = run(
        [*gpg, *secret, "--status-fd", "1", "--quick-generate-key", owner, _KEY_KIND, "sign", _LIFE]
    ).decode()
    made = re.search(r"KEY_CREATED \S+ ([0-9A-F]{40})", said)
    if made is None:
        raise PackagingError(f"gpg did not say which key it made: {said.strip()[-500:]}")
    return find_key(home, made[1])


def public_key(key: Key) -> bytes:
    """The public part, armored, without what others signed of it."""
    return run(
        [
            *("gpg", "--homedir", str(key.home), "--batch", "--armor", "--no-emit-version"),
            *("--export-options", "export-minimal", "--export", key.fingerprint),
        ]
    )


def clearsign(key: Key, text: bytes, epoch: int) -> bytes:
    """The text with its signature around it."""
    return run([*key.command(epoch), "--clearsign"], stdin=text)


def detached(key: Key, content: bytes, epoch: int) -> bytes:
    """A signature beside its file, armored."""
    return run([*key.command(epoch), "--armor", "--detach-sign"], stdin=content)
