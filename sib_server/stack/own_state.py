"""What setup makes as the server's own user: what the server needs before it can start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sib_server.pki.authority import Authority, NoAuthorityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.settings import ServerSettings

CA_NAME = "SIB"


class OwnState(msgspec.Struct, frozen=True):
    """What there is now.

    Attributes:
        made: what was missing, for people.
        ca_pin: SHA-256 of the CA, hex.
    """

    made: list[str]
    ca_pin: str


def make_own_state(settings: ServerSettings, server_names: Sequence[str]) -> OwnState:
    """Make the CA and the server's certificate where they are missing.

    Args:
        settings: the server's.
        server_names: of its certificate.

    Raises:
        SibError: they cannot be made, or what is there cannot be used.
    """
    made = []
    try:
        authority = Authority.load(settings.pki.directory)
    except NoAuthorityError:
        authority = Authority.create(settings.pki.directory, CA_NAME)
        made.append(f"the CA in {settings.pki.directory}")
    if authority.server_certificate(server_names).fresh:
        made.append("the server's certificate")
    return OwnState(made, authority.pin)
