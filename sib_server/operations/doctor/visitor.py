"""The doctor as a host: an identity that the server takes for real, for as long as a look lasts.

It is entered into the ledger under the CA, used over mutual TLS like any agent's, and deleted. Its
host id and its stream follow from the CA's pin, so that many looks leave one stream in the
journal, and none in the list of hosts.
"""

from __future__ import annotations

import ssl
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
import urllib3
from urllib3.exceptions import HTTPError

from sib_protocol.batches import encode_lines
from sib_protocol.errors import ExitCode, MalformedMessageError, SibError
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId
from sib_protocol.keys import key_pem, make_csr, new_key
from sib_protocol.limits import MAX_MESSAGE_BYTES
from sib_protocol.messages import Refusal, StreamAnswer, decode_message
from sib_server.fleet import hosts as registry
from sib_server.pki import ledger
from sib_server.pki.requests import read_request
from sib_server.state.schema import certificates, health, hosts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.pki.authority import Authority
    from sib_server.state.database import StateDatabase

NAME: Final = HostName("sib-doctor")
_STALE_NS: Final = 600 * 10**9
_SECONDS: Final = 10.0


class AnotherDoctorError(SibError):
    """Two doctors at once."""

    exit_code = ExitCode.CONFLICT

    def __init__(self) -> None:
        super().__init__(
            "another doctor is at work, or a host is called sib-doctor",
            "wait until it ends; one that was killed is forgotten after ten minutes",
        )


class VisitError(SibError):
    """The server did not take the probe."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem, remedy or "see 'sib-server logs server'")


@dataclass(frozen=True, slots=True)
class Visitor:
    """The doctor's identity.

    Attributes:
        host_id: who it is.
        stream: where its probes go.
        certificate: PEM.
        key: PEM; nowhere else.
        ca: PEM.
    """

    host_id: HostId
    stream: StreamId
    certificate: str
    key: bytes
    ca: str


def visitor_ids(pin: str) -> tuple[HostId, StreamId]:
    """The host id and the stream of the doctors of one CA. Pure."""
    return (
        HostId(str(uuid.uuid5(uuid.NAMESPACE_URL, f"sib:doctor:{pin}"))),
        StreamId(str(uuid.uuid5(uuid.NAMESPACE_URL, f"sib:doctor:{pin}:stream"))),
    )


@contextmanager
def visit(state: StateDatabase, authority: Authority) -> Iterator[Visitor]:
    """Be a host of this server while the body runs.

    Raises:
        AnotherDoctorError: another is.
        StateUnavailableError: the ledger cannot be written.
    """
    host_id, stream = visitor_ids(authority.pin)
    key = new_key()
    request = read_request(make_csr(key, NAME))
    certificate = authority.issue_host_certificate(request, host_id, NAME)
    now_ns = time.time_ns()
    with state.begin() as connection:
        _forget(connection, host_id, before_ns=now_ns - _STALE_NS)
        try:
            known = registry.find_host(connection, host_id)
        except registry.HostNotFoundError:
            known = None
        if known is not None:
            raise AnotherDoctorError
        try:
            registry.insert_host(
                connection, host_id, NAME, tags=(), token_id="", address="", now_ns=now_ns
            )
        except registry.HostNameTakenError as error:
            raise AnotherDoctorError from error
        pem = ledger.record_issued(connection, certificate, host_id, request, now_ns)
    try:
        yield Visitor(host_id, stream, pem, key_pem(key), authority.certificate_pem)
    finally:
        with state.begin() as connection:
            _forget(connection, host_id, before_ns=None)


def _forget(connection: sa.Connection, host_id: HostId, *, before_ns: int | None) -> None:
    """Leave no trace of a visit; of an old one only, where a time is given."""
    if before_ns is not None:
        young = sa.select(hosts.c.id).where(hosts.c.id == host_id, hosts.c.enrolled_ns >= before_ns)
        if connection.execute(young).first() is not None:
            return
    connection.execute(sa.delete(certificates).where(certificates.c.host_id == host_id))
    connection.execute(sa.delete(health).where(health.c.host_id == host_id))
    connection.execute(sa.delete(hosts).where(hosts.c.id == host_id))


def send(visitor: Visitor, address: str, port: int, server_name: str, line: bytes) -> LineNumber:
    """Send one line as an agent does, over mutual TLS.

    Args:
        visitor: who sends.
        address: of the server.
        port: likewise.
        server_name: a name of the server's certificate.
        line: the probe.

    Returns:
        Its number in the visitor's stream; it is durable in the journal.

    Raises:
        VisitError: says how far it got.
    """
    with tempfile.TemporaryDirectory(prefix="sib-doctor-") as directory:
        place = Path(directory) / "identity.pem"
        place.touch(0o600)
        place.write_bytes(visitor.key + visitor.certificate.encode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=visitor.ca)
        context.load_cert_chain(place)
    with urllib3.HTTPSConnectionPool(
        address,
        port,
        ssl_context=context,
        server_hostname=server_name,
        assert_hostname=server_name,
        timeout=_SECONDS,
        retries=False,
    ) as pool:
        path = f"/v1/streams/{visitor.stream}"
        status, body = _ask(pool, "GET", path, None)
        first = 0 if status == 404 else _next(status, body)
        status, body = _ask(pool, "POST", f"{path}/events?first={first}", encode_lines([line]))
        if _next(status, body) != first + 1:
            raise VisitError("the server took the probe under another number")
    return LineNumber(first)


def _ask(
    pool: urllib3.HTTPSConnectionPool, method: str, path: str, body: bytes | None
) -> tuple[int, bytes]:
    try:
        answer = pool.request(
            method,
            path,
            body=body,
            headers={"content-type": "application/octet-stream", "content-encoding": "gzip"}
            if body
            else {},
            preload_content=False,
            redirect=False,
        )
        return answer.status, answer.read(MAX_MESSAGE_BYTES, decode_content=False)
    except (HTTPError, OSError) as error:
        raise VisitError(
            f"no answer on port {pool.port}: {error}",
            "see 'systemctl status sib-server' and 'sib-server logs server'",
        ) from error


def _next(status: int, body: bytes) -> int:
    if status == 200:
        with suppress(MalformedMessageError):
            return decode_message(body, StreamAnswer).next
    try:
        refusal = decode_message(body, Refusal)
    except MalformedMessageError:
        refusal = Refusal("unknown", f"it answers with status {status}")
    raise VisitError(f"the server refuses the probe: {refusal.problem}", refusal.remedy)
