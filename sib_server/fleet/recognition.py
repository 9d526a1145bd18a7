"""Who sends a request: recognised by its certificate, looked up anew each time."""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from sib_server.errors import RefusedError
from sib_server.fleet.adoption import adopt, find_adoptable
from sib_server.fleet.hosts import HostNameTakenError
from sib_server.fleet.policy import AuthenticatedHost
from sib_server.fleet.refusals import (
    ExpiredCertificateError,
    RemovedHostError,
    RevokedCertificateError,
    UnknownCertificateError,
)
from sib_server.pki import ledger
from sib_server.pki.peer import parse_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from sib_server.fleet.adoption import AdoptionWindow
    from sib_server.pki.ledger import IssuedCertificate
    from sib_server.state.database import StateDatabase

_LOG: Final = logging.getLogger(__name__)


def check_standing(certificate: IssuedCertificate) -> None:
    """Raises RemovedHostError or RevokedCertificateError for one that was taken back. Pure."""
    if certificate.host_removed:
        raise RemovedHostError(certificate.host_name)
    if certificate.revoked_ns is not None:
        raise RevokedCertificateError(certificate.serial)


def check_good(certificate: IssuedCertificate, now_ns: int) -> None:
    """Likewise, and raises ExpiredCertificateError for one whose time is over."""
    check_standing(certificate)
    if now_ns >= certificate.not_after * 10**9:
        raise ExpiredCertificateError(certificate.serial)


class Recognition:
    """Recognises hosts. Nothing is remembered: a revocation holds from the next request on.

    Args:
        state: the state database, migrated.
        root: the CA's certificate.
        adoption: which certificates a restored ledger takes in; ``None``: none.
        clock: nanoseconds since 1970 UTC.
    """

    def __init__(
        self,
        state: StateDatabase,
        root: x509.Certificate,
        *,
        adoption: AdoptionWindow | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._state = state
        self._root = root
        self._adoption = adoption
        self._clock = clock
        self._kept = state.keep(ledger.BY_FINGERPRINT)

    def at_once(self, der: bytes) -> AuthenticatedHost | None:
        """A host that is in good standing, where no lock or network has to be waited for.

        Args:
            der: the peer certificate.

        Returns:
            ``None`` for whatever else there is: then :meth:`authenticate` says what. From one
            thread at a time.
        """
        if self._kept is None:
            return None
        try:
            row = self._kept.first(fingerprint=ledger.fingerprint(der))
            if row is None:
                return None
            found = ledger.issued(row)
            check_good(found, self._clock())
        except (sqlite3.Error, RefusedError):
            return None
        return _authenticated(found) if found.first_used_ns is not None else None

    def authenticate(self, der: bytes) -> AuthenticatedHost:
        """Recognise a host by its certificate. That TLS verified it is not relied on.

        Args:
            der: the peer certificate.

        Raises:
            NotAHostCertificateError, UnknownCertificateError, RemovedHostError,
            RevokedCertificateError, ExpiredCertificateError, StateUnavailableError
        """
        found = self.find(der)
        if found is None:
            raise UnknownCertificateError(parse_peer(der).serial)
        now = self._clock()
        check_good(found, now)
        if found.first_used_ns is None:
            # Once in a certificate's life; lost in a crash, the next request notes it again.
            with self._state.begin(durable=False) as connection:
                ledger.mark_used(connection, found.serial, now)
        return _authenticated(found)

    def find(self, der: bytes) -> IssuedCertificate | None:
        """A certificate in the ledger; after a restore perhaps only now taken into it."""
        with self._state.read() as connection:
            found = ledger.find_by_der(connection, der)
        if found is not None or self._adoption is None:
            return found
        unknown = find_adoptable(der, self._root, self._adoption)
        if unknown is None:
            return None
        try:
            with self._state.begin() as connection:
                # Two requests of a host may come at once.
                if ledger.find_by_der(connection, der) is None:
                    adopt(connection, unknown, self._clock())
                return ledger.find_by_der(connection, der)
        except HostNameTakenError as error:
            _LOG.warning("a host is not taken up after the restore: %s", error.problem)
            return None


def _authenticated(found: IssuedCertificate) -> AuthenticatedHost:
    return AuthenticatedHost(
        found.host_id, found.host_name, found.serial, found.not_after, found.host_tags
    )
