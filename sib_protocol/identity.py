"""A host's identity on disk: its private key, certificate and the CA it trusts.

An identity is one directory per certificate and a symlink ``current``; renewal writes a new
directory and renames the symlink, so a reader sees a key and its own certificate, never a mix.

The daemon reads identities without importing ``cryptography`` (a third of its memory): what it
needs of the certificate stands beside it in ``identity.json``. :mod:`sib_protocol.keys` makes keys
and requests and is imported only where one is made.
"""

from __future__ import annotations

import shutil
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import UNDECODABLE, ExitCode, FileAccessError, SibError
from sib_protocol.files import swap_generation
from sib_protocol.ids import HostId, HostName

if TYPE_CHECKING:
    from pathlib import Path

KEY_FILE: Final = "key.pem"
CERTIFICATE_FILE: Final = "cert.pem"
CA_FILE: Final = "ca.pem"
DESCRIPTION_FILE: Final = "identity.json"
BUNDLE_ROOT_FILE: Final = "bundle-root.json"
CURRENT: Final = "current"


class NotEnrolledError(SibError):
    """The host has no identity yet."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"this host is not enrolled: there is no identity in {directory}",
            "make a token with 'sib-server token create' on the server, then 'sib-agent enroll'",
        )
        self.directory = directory


class DamagedIdentityError(SibError):
    """An identity that is there but cannot be used."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(
            f"the identity in {directory} cannot be used: {reason}",
            "enroll this host again with 'sib-agent enroll --force'",
        )
        self.directory = directory
        self.reason = reason


class Identity(msgspec.Struct, frozen=True):
    """What a host knows of itself; never the key.

    Attributes:
        host_id: the host's UUID.
        host_name: its name.
        servers: ``https://host:port`` addresses, tried in order.
        serial: the certificate's serial number, lower-case hex.
        not_before: when the certificate begins, seconds since 1970 UTC.
        not_after: when it ends, seconds since 1970 UTC.
        issued: when the agent received it, by the host's clock, seconds since 1970 UTC.
    """

    host_id: HostId
    host_name: HostName
    servers: tuple[str, ...]
    serial: str
    not_before: int
    not_after: int
    issued: int


class IdentityStore:
    """The directory that holds a host's identities.

    Args:
        directory: 0700, owned by the agent's user.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def current(self) -> Path:
        """The symlink to the identity in force."""
        return self.directory / CURRENT

    def load(self) -> Identity:
        """The identity in force.

        Raises:
            NotEnrolledError: there is none.
            DamagedIdentityError: it cannot be read or decoded.
            FileAccessError: the directory is not ours to read.
        """
        try:
            text = (self.current / DESCRIPTION_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.current.is_symlink():
                raise DamagedIdentityError(self.directory, f"no {DESCRIPTION_FILE}") from error
            raise NotEnrolledError(self.directory) from error
        except OSError as error:
            raise FileAccessError(
                self.directory, error.strerror or str(error), "run it as root"
            ) from error
        try:
            return msgspec.json.decode(text, type=Identity)
        except UNDECODABLE as error:
            raise DamagedIdentityError(self.directory, f"{DESCRIPTION_FILE}: {error}") from error

    def bundle_root(self) -> bytes | None:
        """The TUF root that bundles are proven by; ``None`` if the server had none to give."""
        try:
            return (self.current / BUNDLE_ROOT_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise FileAccessError(
                self.directory, error.strerror or str(error), "run it as root"
            ) from error

    def store(
        self,
        identity: Identity,
        *,
        key: bytes,
        certificate: bytes,
        ca: bytes,
        bundle_root: bytes | None = None,
    ) -> None:
        """Put a new identity in force and remove all but it and the one before.

        The one before stays for a process that opened it a moment ago.

        Args:
            identity: describes the certificate.
            key: PEM.
            certificate: PEM.
            ca: PEM.
            bundle_root: the pinned TUF root, JSON, if there is one.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self.current.resolve() if self.current.exists() else None
        name = f"gen-{identity.serial}"
        with suppress(FileNotFoundError):
            # A crash between the writing and the rename leaves a whole directory of this name.
            if before is None or before.name != name:
                shutil.rmtree(self.directory / name)
        files = {
            KEY_FILE: (key, 0o600),
            CERTIFICATE_FILE: (certificate, 0o644),
            CA_FILE: (ca, 0o644),
            DESCRIPTION_FILE: (msgspec.json.encode(identity), 0o644),
        }
        if bundle_root is not None:
            files[BUNDLE_ROOT_FILE] = (bundle_root, 0o644)
        swap_generation(self.directory, name, files, link=CURRENT)
        for old in self.directory.glob("gen-*"):
            if old.name != name and old != before:
                shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Forget the identity: key, certificate and all.

        Raises:
            NotEnrolledError: there is none.
        """
        if not self.current.is_symlink():
            raise NotEnrolledError(self.directory)
        self.current.unlink()
        for old in self.directory.glob("gen-*"):
            shutil.rmtree(old)


def server_trust(ca: Path | str | None) -> ssl.SSLContext:
    """A client's TLS 1.3 context that trusts one CA and nothing else.

    Args:
        ca: a PEM file, or PEM text; ``None`` trusts nothing yet and verifies nothing: only for
            fetching a CA whose pin is checked before anything else is done with it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif isinstance(ca, str):
        context.load_verify_locations(cadata=ca)
    else:
        context.load_verify_locations(cafile=str(ca))
    return context


def identity_context(store: IdentityStore) -> ssl.SSLContext:
    """A client's TLS 1.3 context with the host's certificate.

    Raises:
        DamagedIdentityError: key, certificate or CA cannot be loaded.
    """
    # Resolved once: a renewal in between must not mix two generations.
    generation = store.current.resolve()
    try:
        context = server_trust(generation / CA_FILE)
        context.load_cert_chain(generation / CERTIFICATE_FILE, generation / KEY_FILE)
    except (OSError, ssl.SSLError) as error:
        raise DamagedIdentityError(store.directory, str(error)) from error
    return context
