"""What setup makes as the server's own user: what the server needs before it can start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sib_server.detection.bundles.repository import Repository
from sib_server.pki.authority import Authority, NoAuthorityError
from sib_server.stack.access import authorization, tls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sib_server.detection.bundles.settings import BundleSettings
    from sib_server.settings import ServerSettings
    from sib_server.stack.access import StoreAccess

CA_NAME: Final = "SIB"


class OwnState(msgspec.Struct, frozen=True):
    """What there is now.

    Attributes:
        made: what was missing, for people.
        ca_pin: SHA-256 of the CA, hex.
    """

    made: list[str]
    ca_pin: str


def make_own_state(
    settings: ServerSettings, server_names: Sequence[str], accesses: Sequence[StoreAccess] = ()
) -> OwnState:
    """Make the CA, the server's certificate and the repository of bundles where they are missing.

    The repository has to be there before the first host enrolls: hosts pin its root then.

    Args:
        settings: the server's.
        server_names: of its certificate.
        accesses: to stores elsewhere: a server that cannot use one would not start.

    Raises:
        SibError: they cannot be made, or what is there cannot be used.
    """
    for access in accesses:
        authorization(access)
        tls(access)
    made = []
    try:
        authority = Authority.load(settings.pki.directory)
    except NoAuthorityError:
        authority = Authority.create(settings.pki.directory, CA_NAME)
        made.append(f"the CA in {settings.pki.directory}")
    if authority.server_certificate(server_names).fresh:
        made.append("the server's certificate")
    if _make_repository(settings.bundles):
        made.append(f"the repository of bundles in {settings.bundles.directory}")
    return OwnState(made, authority.pin)


def _make_repository(settings: BundleSettings) -> bool:
    return Repository(settings.directory, settings.expiries()).create()


def unreadable(paths: Sequence[Path]) -> list[str]:
    """Those of some files that this user cannot read."""
    found = []
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            found.append(f"{path}: {error.strerror or error}")
    return found
