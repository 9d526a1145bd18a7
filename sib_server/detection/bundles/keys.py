"""The keys that bundles are signed with: Ed25519, one PEM file each, 0600.

Which file is which role's is said by the root: a file's name holds the key's id, so that a rotation
interrupted at any instant leaves each role with the key that the root in force names. Root keys
need not be here: exported ones are asked for when a root has to be signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_protocol.files import sync_directory, write_synced

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

ROOT: Final = "root"
_MAX_KEY: Final = 16 * 1024
_ID_LENGTH: Final = 16
_SHORTEST_PASSPHRASE: Final = 12


class KeyMissingError(SibError):
    """A role cannot sign: its key is not here."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, role: str, directory: Path) -> None:
        remedy = (
            "give the exported root key by --root-key"
            if role == ROOT
            else "put it back from a backup, or make a new one with 'sib-server bundle keys rotate'"
        )
        super().__init__(f"there are not enough {role} keys in {directory}", remedy)
        self.role = role


class KeyFileError(SibError):
    """A key file that cannot be used."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"the key {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


def new_signer() -> CryptoSigner:
    """A new key."""
    return CryptoSigner.generate_ed25519()


def load_key(path: Path, passphrase: str | None = None) -> CryptoSigner:
    """Read a key file.

    Raises:
        FileAccessError: it cannot be read.
        KeyFileError: not an Ed25519 key, or not with this passphrase.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_KEY)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    try:
        secret = passphrase.encode() if passphrase is not None else None
        key = serialization.load_pem_private_key(text, secret)
    except TypeError as error:
        wants = "it needs no passphrase" if passphrase else "it is encrypted: give its passphrase"
        raise KeyFileError(path, wants) from error
    except ValueError as error:
        raise KeyFileError(path, "damaged, or the wrong passphrase") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(path, "it is not an Ed25519 key")
    return CryptoSigner(key, SSlibKey.from_crypto(key.public_key()))


def save_key(path: Path, signer: CryptoSigner, passphrase: str | None = None) -> None:
    """Write a key file that must not exist yet, durable.

    Raises:
        FileAccessError: it exists, or cannot be written.
        KeyFileError: the passphrase is too short.
    """
    if passphrase is not None and len(passphrase) < _SHORTEST_PASSPHRASE:
        raise KeyFileError(path, f"a passphrase has {_SHORTEST_PASSPHRASE} characters or more")
    # The signer writes PKCS 8 without encryption only; it is never on disk that way when exported.
    key = serialization.load_pem_private_key(signer.private_bytes, None)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode()),
    )
    try:
        write_synced(path, text, 0o600)
        sync_directory(path.parent)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


class KeyStore:
    """The directory with the keys that are here.

    Args:
        directory: made when the first key is kept.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, role: str, signer: CryptoSigner) -> Path:
        """Keep a new key. Returns its file."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(role, signer.public_key.keyid)
        save_key(path, signer)
        return path

    def present(self, role: str, keyids: Iterable[str]) -> list[Path]:
        """The files of those of a role's keys that are here."""
        return [path for keyid in keyids if (path := self._path(role, keyid)).is_file()]

    def signers(self, role: str, keyids: Sequence[str], needed: int = 1) -> list[CryptoSigner]:
        """The role's keys that are here.

        Raises:
            KeyMissingError: fewer than are needed.
        """
        found = [load_key(path) for path in self.present(role, keyids)]
        if len(found) < needed:
            raise KeyMissingError(role, self.directory)
        return found

    def forget(self, role: str, keep: Iterable[str]) -> None:
        """Remove all of a role's keys but some."""
        kept = {self._path(role, keyid) for keyid in keep}
        for path in self.directory.glob(f"{role}-*.pem"):
            if path not in kept:
                path.unlink()
        sync_directory(self.directory)

    def export(self, role: str, keyid: str, to: Path, passphrase: str) -> None:
        """Move a key to another place, encrypted; the copy is read back before this one goes.

        Raises:
            KeyMissingError: it is not here.
            FileAccessError, KeyFileError: see :func:`save_key`.
        """
        path = self._path(role, keyid)
        if not path.is_file():
            raise KeyMissingError(role, self.directory)
        save_key(to, load_key(path), passphrase)
        if load_key(to, passphrase).public_key.keyid != keyid:
            raise KeyFileError(to, "what was written is not what was read back")
        path.unlink()
        sync_directory(self.directory)

    def _path(self, role: str, keyid: str) -> Path:
        return self.directory / f"{role}-{keyid[:_ID_LENGTH]}.pem"
