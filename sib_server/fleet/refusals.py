"""Why a host with a certificate is not let in, or is given no other certificate."""

from __future__ import annotations

from sib_server.errors import RefusedError

_ENROLL: str = "enroll the host again: 'sib-server token create', then 'sib-agent enroll --force'"


class UnknownCertificateError(RefusedError):
    """A certificate that is not in the ledger: another CA's, or forgotten long after its end."""

    code = "certificate_unknown"
    status = 401

    def __init__(self, serial: str) -> None:
        super().__init__(f"certificate {serial} is not one that this server issued", _ENROLL)
        self.serial = serial


class RevokedCertificateError(RefusedError):
    """A certificate that was revoked."""

    code = "certificate_revoked"
    status = 401

    def __init__(self, serial: str) -> None:
        super().__init__(f"certificate {serial} has been revoked", _ENROLL)
        self.serial = serial


class RemovedHostError(RefusedError):
    """A certificate of a host that was removed."""

    code = "host_removed"
    status = 401

    def __init__(self, host_name: str) -> None:
        super().__init__(f"host {host_name} has been removed", _ENROLL)
        self.host_name = host_name


class ExpiredCertificateError(RefusedError):
    """A certificate whose time is over; a connection may outlive it."""

    code = "certificate_expired"
    status = 401

    def __init__(self, serial: str) -> None:
        super().__init__(f"certificate {serial} has expired", "renew it over /v1/renew-expired")
        self.serial = serial


class GraceOverError(RefusedError):
    """A certificate that expired too long ago to be renewed."""

    code = "certificate_expired_too_long"

    def __init__(self, serial: str, days: float) -> None:
        super().__init__(f"certificate {serial} expired more than {days:g} days ago", _ENROLL)
        self.serial = serial


class SupersededCertificateError(RefusedError):
    """A certificate whose successor is in use already."""

    code = "certificate_superseded"

    def __init__(self, serial: str, host_name: str) -> None:
        super().__init__(
            f"host {host_name} has long been using a newer certificate than {serial}",
            "this machine is a snapshot put back or a copy: enroll it with a token of its own; if"
            f" nobody did that, the key was stolen: 'sib-server host remove {host_name}'",
        )
        self.serial = serial


class ProofError(RefusedError):
    """The proof for an expired certificate is not by its key."""

    code = "bad_proof"

    def __init__(self, serial: str) -> None:
        super().__init__(f"the proof was not made by the key of certificate {serial}", _ENROLL)
        self.serial = serial


class KeyTakenError(RefusedError):
    """The key in a request is another host's."""

    code = "key_taken"
    status = 409

    def __init__(self) -> None:
        super().__init__(
            "the key in this certificate request belongs to another host",
            "every host makes a key of its own: do not copy identities between machines",
        )
