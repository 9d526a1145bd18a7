"""The JSON messages between an agent and its server.

Decoding is strict about types and bounded in size, and lenient about keys it does not know, so
that an old side can talk to a new one. Texts that become ids are checked where they enter.

Routes (all on the one TLS port):

==========================================  ======================  =========================
route                                       request                 answer
==========================================  ======================  =========================
``GET /v1/ca``                              nothing                 CA certificate, PEM
``POST /v1/enroll``                         :class:`EnrollRequest`  :class:`CertificateAnswer`
``POST /v1/renew``                          :class:`RenewRequest`   :class:`CertificateAnswer`
``POST /v1/renew-expired``                  :class:`RenewExpired`   :class:`CertificateAnswer`
``POST /v1/health``                         :class:`HealthReport`   :class:`HealthAnswer`
``GET /v1/streams/{stream}``                nothing                 :class:`StreamAnswer`
``POST /v1/streams/{stream}/events?first``  gzip lines              :class:`StreamAnswer`
``POST /v1/streams/{stream}/gaps``          :class:`GapReport`      :class:`StreamAnswer`
``GET /v1/bundle/wanted``                   nothing                 :class:`WantedBundle`
``GET /v1/bundle/metadata/{name}``          nothing                 TUF metadata, JSON
``GET /v1/bundle/targets/{name}``           nothing                 a part of a bundle
==========================================  ======================  =========================

Every refusal is a :class:`Refusal`. All below ``/v1/bundle`` have ETags: with ``If-None-Match`` the
answer is 304 where nothing changed. Where no bundle is wanted it is 204.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import TypeVar

import msgspec

from sib_protocol.errors import UNDECODABLE, MalformedMessageError, TooLargeError
from sib_protocol.limits import MAX_MESSAGE_BYTES

Message = TypeVar("Message", bound=msgspec.Struct)


class EnrollRequest(msgspec.Struct, frozen=True):
    """A host asks to join.

    Attributes:
        token_id: the public half of the token.
        secret: the secret half, as in the token.
        host_name: what the host calls itself.
        csr: PEM; proves that the host holds its key. Its subject is ignored.
    """

    token_id: str
    secret: str
    host_name: str
    csr: str


class RenewRequest(msgspec.Struct, frozen=True):
    """A host with a valid certificate asks for the next one.

    Attributes:
        csr: PEM, by the key that the new certificate shall carry.
    """

    csr: str


class RenewExpired(msgspec.Struct, frozen=True):
    """A host that slept past its certificate's end asks for a new one.

    TLS cannot carry an expired client certificate, so it is proven here.

    Attributes:
        certificate: PEM, the expired one.
        csr: PEM, by the key that the new certificate shall carry.
        proof: base64 of the ECDSA-SHA256 signature by the *old* key over :func:`proof_text`.
    """

    certificate: str
    csr: str
    proof: str


def proof_text(csr: str) -> bytes:
    """What the old key signs to vouch for a new certificate request."""
    return b"sib renew-expired v1\n" + csr.encode()


class CertificateAnswer(msgspec.Struct, frozen=True):
    """A host's new certificate.

    Attributes:
        host_id: UUID of the host, now and later.
        host_name: its name as the server knows it.
        certificate: PEM.
        ca: PEM of the CA that signed it; may hold several while a CA is being replaced.
        bundle_root: TUF root metadata that bundles are verified by, JSON. A host keeps the first
            one it is given and takes no other while it is enrolled. ``None`` where the server has
            no bundles.
    """

    host_id: str
    host_name: str
    certificate: str
    ca: str
    bundle_root: str | None = None


class GapReason(Enum):
    """Why lines of a stream will never come."""

    QUOTA = "quota"
    """The spool reached its quota and gave up its oldest segment."""

    DAMAGE = "damage"
    """The spool's bytes on disk were damaged."""

    ACKNOWLEDGED = "acknowledged"
    """The server had them once and acknowledged them, but its journal was put back since."""


class GapReport(msgspec.Struct, frozen=True):
    """The agent says that it has lost lines.

    Attributes:
        first: number of the first lost line.
        last: number of the last one, included.
        reason: why.
    """

    first: int
    last: int
    reason: GapReason


class StreamAnswer(msgspec.Struct, frozen=True):
    """Where the server stands in a stream; the answer to batches and gaps.

    With status 200 everything below ``next`` is durable in the journal. With status 409 the batch
    began above ``next``, and the server wants it from there.

    Attributes:
        next: the number of the first line that the server does not have.
    """

    next: int


class SpoolHealth(msgspec.Struct, frozen=True):
    """The state of an agent's spool.

    Attributes:
        stream: the stream's UUID.
        next: number of the next line to be spooled.
        acknowledged: number of the first line not yet acknowledged.
        bytes: size on disk.
        quota: what that size may be at most, bytes.
        oldest_seconds: age of the oldest line not acknowledged, seconds; 0 when there is none.
        lost: lines that were dropped or damaged since the stream began.
        problem: why spooling stands still (a full disk), else ``None``.
    """

    stream: str
    next: int
    acknowledged: int
    bytes: int
    quota: int
    oldest_seconds: float
    lost: int
    problem: str | None = None


class BundleOutcome(Enum):
    """How a bundle ended on a host."""

    ACCEPTED = "accepted"
    """It is in force, and Falco came back with it and stayed quiet."""

    UNWATCHED = "unwatched"
    """It is in force, but no Falco ran that could have been watched."""

    UNPROVEN = "unproven"
    """It was not taken: its signatures, age or size did not prove it. Says nothing of its rules."""

    REFUSED = "refused"
    """It was never in force: Falco would not have it, or it is signed and no bundle."""

    ROLLED_BACK = "rolled_back"
    """It was in force, did harm, and the one before is in force again."""


class BundleEnd(msgspec.Struct, frozen=True):
    """How a host's last bundle ended.

    Attributes:
        version: of that bundle.
        outcome: how.
        reason: why it was refused or rolled back, else what to know of it; for people.
        at: seconds since 1970 UTC, by the host's clock.
    """

    version: int
    outcome: BundleOutcome
    reason: str
    at: int


class BundleHealth(msgspec.Struct, frozen=True):
    """How a host stands with bundles.

    Attributes:
        version: in force; 0 is none.
        ended: how the last one ended, if there was any.
        trying: the version that is being fetched or on trial, else ``None``.
        engine: what is known of Falco on the host: its version, or why there is none to watch.
        failed: how the last one ended that was not taken, if any; the one after it may be in force.
        withheld: why new bundles may be kept from this host, if they may.
    """

    version: int
    ended: BundleEnd | None = None
    trying: int | None = None
    engine: str = ""
    failed: BundleEnd | None = None
    withheld: str | None = None


class HealthReport(msgspec.Struct, frozen=True):
    """What an agent tells of itself, every so often.

    Attributes:
        version: the agent's.
        uptime_seconds: of the agent's process.
        clock_ns: the host's clock, nanoseconds since 1970 UTC.
        certificate_not_after: seconds since 1970 UTC.
        spool: the spool's state.
        lines_read: event lines taken from Falco since the process began.
        lines_cut: of those, how many were longer than a line may be and were cut.
        source_problem: why the events file cannot be read, else ``None``.
        kernel: the running kernel's release.
        facts: further named values that a newer agent may add.
        bundle: how it stands with bundles; ``None`` from an agent that has none.
    """

    version: str
    uptime_seconds: float
    clock_ns: int
    certificate_not_after: int
    spool: SpoolHealth
    lines_read: int = 0
    lines_cut: int = 0
    source_problem: str | None = None
    kernel: str = ""
    facts: dict[str, str | int | float | bool | None] = msgspec.field(default_factory=dict)
    bundle: BundleHealth | None = None


class WantedBundle(msgspec.Struct, frozen=True):
    """The bundle that the server wants on a host.

    This is only where to look: what is put in force is what TUF's metadata vouch for.

    Attributes:
        version: of the bundle.
        targets: names of its parts for this host; see :mod:`sib_protocol.bundles.names`.
        wait_seconds: how long to wait before fetching them, so that a fleet does not come at once.
    """

    version: int
    targets: tuple[str, ...]
    wait_seconds: float = 0.0

    def etag(self) -> str:
        """The same for the same parts of the same version, however long to wait for them.

        Both sides make it, so that a host can ask whether what a health answer named still holds.
        """
        names = "\n".join((str(self.version), *self.targets))
        return f'"{hashlib.sha256(names.encode(errors="backslashreplace")).hexdigest()}"'


class HealthAnswer(msgspec.Struct, frozen=True):
    """What the server answers to a health report.

    Attributes:
        interval_seconds: when to report next.
        clock_ns: the server's clock, nanoseconds since 1970 UTC.
        bundle: the bundle that this host shall have; ``None`` where the server has none.
    """

    interval_seconds: float
    clock_ns: int
    bundle: WantedBundle | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was refused; the body of every 4xx and 5xx answer but 409 of a stream.

    Attributes:
        error: a short fixed word for programs, like ``token_expired``.
        problem: one sentence for people.
        remedy: what to do, where the server knows.
    """

    error: str
    problem: str
    remedy: str | None = None


def encode_message(message: msgspec.Struct) -> bytes:
    """A message as JSON."""
    return msgspec.json.encode(message)


def decode_message(
    body: bytes, wanted: type[Message], *, max_bytes: int = MAX_MESSAGE_BYTES
) -> Message:
    """Read a message from JSON.

    Raises:
        TooLargeError: more than ``max_bytes``.
        MalformedMessageError: not JSON, or not of the wanted shape; says where.
    """
    if len(body) > max_bytes:
        raise TooLargeError("a message", max_bytes)
    try:
        return msgspec.json.decode(body, type=wanted)
    except UNDECODABLE as error:
        raise MalformedMessageError(f"not a {wanted.__name__}: {error}") from error
