"""The CA on disk, and the server's own certificate beside it.

``DIRECTORY/ca/current`` and ``DIRECTORY/server/current`` are symlinks to generations; each holds
a key and its certificate, put in force together by one rename. The keys are 0600.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sib_protocol.errors import ExitCode, FileAccessError, MalformedMessageError, SibError
from sib_protocol.files import swap_generation
from sib_protocol.keys import certificate_pin, key_pem, load_key, new_key
from sib_protocol.renewal import renewal_due
from sib_server.pki.certificates import (
    build_host_certificate,
    build_root,
    build_server_certificate,
    parse_server_name,
)
from sib_server.pki.peer import serial_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from sib_protocol.ids import HostId, HostName
    from sib_server.pki.requests import HostRequest

CA_KEY: Final = "ca.key"
CA_CERTIFICATE: Final = "ca.pem"
SERVER_KEY: Final = "server.key"
SERVER_CERTIFICATE: Final = "server.pem"
_CURRENT: Final = "current"


class NoAuthorityError(SibError):
    """There is no CA yet."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"there is no CA in {directory}", "make one with 'sib-server ca init' on this machine"
        )
        self.directory = directory


class AuthorityExistsError(SibError):
    """There is a CA already; making another would cut off every enrolled host."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"there is a CA in {directory} already",
            "use it; another CA needs another pki.directory, and every host has to enroll again",
        )
        self.directory = directory


class DamagedAuthorityError(SibError):
    """A CA that is there but cannot be used."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(
            f"the CA in {directory} cannot be used: {reason}", "put it back from a backup"
        )
        self.directory = directory
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The server's certificate in force.

    Attributes:
        certificate: itself.
        directory: its generation; stays as it is when a newer one is put in force.
        fresh: whether it was made by this call.
    """

    certificate: x509.Certificate
    directory: Path
    fresh: bool

    @property
    def certificate_path(self) -> Path:
        """PEM."""
        return self.directory / SERVER_CERTIFICATE

    @property
    def key_path(self) -> Path:
        """PEM, 0600."""
        return self.directory / SERVER_KEY

    @property
    def serial(self) -> str:
        """Lower-case hex."""
        return serial_text(self.certificate)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Make and lock a directory against other processes that write to it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FileAccessError(
            directory, error.strerror or str(error), "see pki.directory in the settings"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _put(directory: Path, generation: str, files: dict[str, tuple[bytes, int]]) -> Path:
    """Swap a generation in; the one before stays for who opened it a moment ago."""
    current = directory / _CURRENT
    before = current.resolve() if current.exists() else None
    made = swap_generation(directory, generation, files, link=_CURRENT)
    for old in directory.glob("gen-*"):
        if old.name != generation and old != before:
            shutil.rmtree(old, ignore_errors=True)
    return made


class Authority:
    """A CA that is loaded; safe to share between threads.

    Make one with :meth:`create` or :meth:`load`.

    Attributes:
        directory: where it lives.
        certificate: the root.
        certificate_pem: the root, PEM, as hosts get it.
        pin: SHA-256 of the root's DER, hex, as tokens carry it.
    """

    def __init__(
        self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        self.directory = directory
        self.certificate = certificate
        self.certificate_pem = _pem(certificate).decode()
        self.pin = certificate_pin(certificate)
        self._key = key

    @classmethod
    def create(cls, directory: Path, name: str, *, now: datetime | None = None) -> Authority:
        """Make a new CA: an ECDSA P-256 root, good for ten years.

        Args:
            directory: made if it is not there.
            name: the root's common name, 1 to 64 characters.
            now: with a time zone; the clock's by default.

        Raises:
            AuthorityExistsError: there is one.
            AuthorityNameError: no CA can have this name.
            FileAccessError: the directory cannot be made.
        """
        home = directory / "ca"
        with _locked(home):
            if (home / _CURRENT).is_symlink():
                raise AuthorityExistsError(directory)
            key = new_key()
            certificate = build_root(key, name, now or _now())
            _put(
                home,
                f"gen-{serial_text(certificate)}",
                {CA_KEY: (key_pem(key), 0o600), CA_CERTIFICATE: (_pem(certificate), 0o644)},
            )
        return cls(directory, key, certificate)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Open the CA.

        Raises:
            NoAuthorityError: there is none.
            FileAccessError: it may not be read.
            DamagedAuthorityError: key and certificate cannot be used together.
        """
        current = directory / "ca" / _CURRENT
        try:
            generation = current.resolve()
            key_text = (generation / CA_KEY).read_bytes()
            certificate_text = (generation / CA_CERTIFICATE).read_bytes()
        except FileNotFoundError as error:
            if current.is_symlink():
                raise DamagedAuthorityError(directory, f"{error.filename} is missing") from error
            raise NoAuthorityError(directory) from error
        except OSError as error:
            raise FileAccessError(
                directory, error.strerror or str(error), "run this as root or as the server's user"
            ) from error
        try:
            key = load_key(key_text)
            certificate = x509.load_pem_x509_certificate(certificate_text)
        except (MalformedMessageError, ValueError) as error:
            raise DamagedAuthorityError(directory, str(error)) from error
        if certificate.public_key() != key.public_key():
            raise DamagedAuthorityError(directory, "the key is not the certificate's")
        return cls(directory, key, certificate)

    def issue_host_certificate(
        self,
        request: HostRequest,
        host_id: HostId,
        host_name: HostName,
        *,
        now: datetime | None = None,
    ) -> x509.Certificate:
        """A host's certificate, for a request that :func:`~.requests.read_request` verified.

        Raises:
            AuthorityExpiredError: the root is over.
        """
        return build_host_certificate(
            self.certificate,
            self._key,
            request.public_key,
            host_id=host_id,
            host_name=host_name,
            now=now or _now(),
        )

    def server_certificate(
        self,
        names: Sequence[str],
        *,
        now: datetime | None = None,
        jitter: float = 0.0,
        force: bool = False,
    ) -> ServerCertificate:
        """The server's certificate; a new one where it is missing, due, or for other names.

        Args:
            names: DNS names and IP addresses, at least one; repetitions are dropped.
            now: with a time zone; the clock's by default.
            jitter: 0 to 1, see :func:`~sib_protocol.renewal.renewal_time`.
            force: make a new one in any case.

        Raises:
            ServerNameError: a name is neither a DNS name nor an IP address.
            AuthorityExpiredError: the root is over.
            FileAccessError: the directory cannot be written to.
        """
        now = now or _now()
        wanted = tuple(dict.fromkeys(names))
        home = self.directory / "server"
        with _locked(home):
            found = None if force else self._usable(wanted, now, jitter)
            if found is not None:
                return found
            key = new_key()
            certificate = build_server_certificate(
                self.certificate, self._key, key.public_key(), names=wanted, now=now
            )
            generation = _put(
                home,
                f"gen-{serial_text(certificate)}",
                {SERVER_KEY: (key_pem(key), 0o600), SERVER_CERTIFICATE: (_pem(certificate), 0o644)},
            )
        return ServerCertificate(certificate, generation, fresh=True)

    def _usable(
        self, names: Sequence[str], now: datetime, jitter: float
    ) -> ServerCertificate | None:
        found = self.installed_server_certificate()
        if found is None:
            return None
        certificate = found.certificate
        try:
            certificate.verify_directly_issued_by(self.certificate)
            key = load_key(found.key_path.read_bytes())
            carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except Exception:  # noqa: BLE001  (whatever is wrong with it, a new one is the answer)
            return None
        if (
            key.public_key() != certificate.public_key()
            or set(carried.value) != {parse_server_name(name) for name in names}
            # Made while this clock was ahead: no host takes it, and it would not be due for long.
            or now < certificate.not_valid_before_utc
            or renewal_due(
                certificate.not_valid_before_utc.timestamp(),
                certificate.not_valid_after_utc.timestamp(),
                now.timestamp(),
                jitter,
            )
        ):
            return None
        return found

    def installed_server_certificate(self) -> ServerCertificate | None:
        """The server's certificate as it lies on disk, or ``None``; makes nothing."""
        generation = (self.directory / "server" / _CURRENT).resolve()
        try:
            certificate = x509.load_pem_x509_certificate(
                (generation / SERVER_CERTIFICATE).read_bytes()
            )
        except (OSError, ValueError):
            return None
        return ServerCertificate(certificate, generation, fresh=False)
