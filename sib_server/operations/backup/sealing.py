"""How a backup is encrypted: the age format, by pyrage; ``age -d`` opens it without SIB.

To a key it is a stream of any length. age derives a passphrase's key with scrypt, and pyrage does
that only in memory, so there the size is bounded.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyrage

from sib_server.operations.backup.archive import GeneratedReader
from sib_server.operations.backup.errors import (
    ArchiveRefusedError,
    KeyFormError,
    TooLargeForPassphraseError,
    WrongKeyError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

MAX_PASSPHRASE_BYTES: Final = 512 * 1024 * 1024
_SHORTEST_PASSPHRASE: Final = 12
_HEADER: Final = b"age-encryption.org/v1\n"
_SCRYPT: Final = b"-> scrypt "
_MAX_KEY_FILE: Final = 64 * 1024

# pyrage has no types.
Recipient: TypeAlias = Any
Identity: TypeAlias = Any


def make_identity() -> tuple[str, str]:
    """A new key: (the secret half, the public half), as age writes them."""
    made = pyrage.x25519.Identity.generate()
    return str(made), str(made.to_public())


def parse_recipient(text: str) -> Recipient:
    """Read a public key. Raises KeyFormError."""
    try:
        return pyrage.x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        raise KeyFormError(
            "the recipient", f"not a public key of age ({error})", "it begins with age1"
        ) from error


def parse_identities(text: str, where: str) -> list[Identity]:
    """Read an age identity file: a secret key a line, comments.

    Args:
        text: the file's content.
        where: its path, for errors.

    Raises:
        KeyFormError: there is none in it, or something else.
    """
    lines = [line.strip() for line in text[:_MAX_KEY_FILE].splitlines()]
    found = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        try:
            found.append(pyrage.x25519.Identity.from_str(line))
        except pyrage.IdentityError as error:
            raise KeyFormError(
                f"{where}, line {number}",
                "not a secret key of age",
                "it begins with AGE-SECRET-KEY-1; the file that backup-key made has it",
            ) from error
    if not found:
        raise KeyFormError(where, "there is no key in it", "name the file that backup-key made")
    return found


def check_passphrase(text: str, where: str) -> str:
    """A passphrase that is worth the name. Raises KeyFormError."""
    if len(text) < _SHORTEST_PASSPHRASE:
        raise KeyFormError(
            where,
            f"a passphrase of {len(text)} characters",
            f"take {_SHORTEST_PASSPHRASE} or more: who gets the file can guess for years",
        )
    return text


def seal(chunks: Iterator[bytes], target: BinaryIO, recipients: Sequence[Recipient]) -> None:
    """Encrypt to keys.

    Args:
        chunks: the archive.
        target: where to.
        recipients: at least one.
    """
    failure: list[BaseException] = []

    def kept() -> Iterator[bytes]:
        # pyrage turns an exception of ours into its own and loses what it was.
        try:
            yield from chunks
        except BaseException as error:
            failure.append(error)
            raise

    try:
        pyrage.encrypt_io(GeneratedReader(kept()), target, list(recipients))
    except (pyrage.EncryptError, OSError):
        if failure:
            raise failure[0] from None
        raise


def seal_with_passphrase(
    chunks: Iterator[bytes], target: BinaryIO, passphrase: str, size: int
) -> None:
    """Encrypt with a passphrase, in memory.

    Args:
        chunks: the archive.
        target: where to.
        passphrase: see :func:`check_passphrase`.
        size: of the files in the archive, bytes.

    Raises:
        TooLargeForPassphraseError: before anything is read.
    """
    if size > MAX_PASSPHRASE_BYTES:
        raise TooLargeForPassphraseError(size, MAX_PASSPHRASE_BYTES)
    target.write(pyrage.passphrase.encrypt(b"".join(chunks), passphrase))


def needs_passphrase(source: BinaryIO) -> bool:
    """Whether a backup was made with a passphrase; leaves the file at its beginning.

    Raises:
        ArchiveRefusedError: it is no age file at all.
    """
    head = source.read(len(_HEADER) + len(_SCRYPT))
    source.seek(0)
    if not head.startswith(_HEADER):
        raise ArchiveRefusedError("it is not encrypted by age, or not a backup")
    return head[len(_HEADER) :] == _SCRYPT


@contextmanager
def unseal(source: BinaryIO, key: str | Sequence[Identity]) -> Iterator[BinaryIO]:
    """Decrypt: what is read inside has been verified piece by piece; its end only at the end.

    Args:
        source: the backup.
        key: a passphrase, or secret keys.

    Raises:
        WrongKeyError: it does not open the file.
        ArchiveRefusedError: the file is damaged; also on leaving, whatever the body found in it.
    """
    if isinstance(key, str):
        yield _unseal_with_passphrase(source, key)
        return
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def decrypt() -> None:
        try:
            with os.fdopen(writing, "wb") as plain:
                pyrage.decrypt_io(source, plain, list(key))
        except BaseException as error:  # noqa: BLE001  (told below, in the caller's thread)
            failure.append(error)

    thread = threading.Thread(target=decrypt, name="unseal", daemon=True)
    thread.start()
    finished = False
    try:
        with os.fdopen(reading, "rb") as plain:
            yield plain
            # To the very end: a file that was cut short is known by its last piece alone.
            finished = not plain.read(1)
    except ArchiveRefusedError:
        thread.join()
        _tell(failure)
        raise
    finally:
        with suppress(RuntimeError):
            thread.join()
    _tell(failure if finished else [])
    if not finished:
        raise ArchiveRefusedError("there is something behind its end")


def _unseal_with_passphrase(source: BinaryIO, passphrase: str) -> BinaryIO:
    sealed = source.read(MAX_PASSPHRASE_BYTES + 1)
    if len(sealed) > MAX_PASSPHRASE_BYTES:
        raise ArchiveRefusedError("it is far too large for one with a passphrase")
    try:
        return io.BytesIO(pyrage.passphrase.decrypt(sealed, passphrase))
    except (pyrage.DecryptError, OSError) as error:
        raise _explained(error) from error


def _tell(failures: Sequence[BaseException]) -> None:
    for error in failures:
        if isinstance(error, BrokenPipeError):
            continue
        raise _explained(error) from error


def _explained(error: BaseException) -> WrongKeyError | ArchiveRefusedError:
    text = str(error)
    if "No matching keys" in text or text == "Decryption failed":
        return WrongKeyError("use the key or passphrase that it was made for")
    return ArchiveRefusedError(f"it is damaged ({text})")
