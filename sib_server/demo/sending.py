"""Sending demo events as hosts do: enrolled by a token, over mutual TLS, in numbered batches."""

from __future__ import annotations

import http.client
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from sib_protocol.batches import encode_lines
from sib_protocol.errors import ExitCode, MalformedMessageError, SibError
from sib_protocol.identity import server_trust
from sib_protocol.ids import new_stream_id
from sib_protocol.keys import key_pem, make_csr, new_key
from sib_protocol.limits import MAX_MESSAGE_BYTES
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    Refusal,
    StreamAnswer,
    decode_message,
    encode_message,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.pki.tokens import NewToken

Message = TypeVar("Message", bound=msgspec.Struct)
_TIMEOUT_S: Final = 30.0


class DemoServerError(SibError):
    """This machine's server did not take the demo's events."""

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the server of this machine does not take events: {reason}",
            "start it ('systemctl start sib-server') and try again",
        )


class DemoHost:
    """One host that does not exist, enrolled.

    Args:
        name: what it is called.
        address: where the server of this machine listens.
        port: its port.
        ca: PEM of the server's CA.
    """

    def __init__(self, name: str, address: str, port: int, ca: str) -> None:
        self.name = name
        self._address, self._port = address, port
        self._trust = server_trust(ca)
        # The certificate names the machine; this is the same machine, and its own CA vouches.
        self._trust.check_hostname = False

    def enroll(self, token: NewToken) -> None:
        """Get an identity, which ends with this process.

        Raises:
            DemoServerError: the server cannot be reached or refuses.
        """
        key = new_key()
        request = EnrollRequest(token.record.id, token.secret, self.name, make_csr(key, self.name))
        answer = self._post("/v1/enroll", encode_message(request), CertificateAnswer)
        with tempfile.TemporaryDirectory(prefix="sib-demo-") as folder:
            place = Path(folder) / "identity.pem"
            place.touch(mode=0o600)
            place.write_bytes(key_pem(key) + answer.certificate.encode())
            self._trust.load_cert_chain(place)

    def send(self, lines: Sequence[bytes]) -> int:
        """Send lines as a stream of their own; how many the server has.

        Raises:
            DemoServerError: the server cannot be reached or refuses.
        """
        path = f"/v1/streams/{new_stream_id()}/events?first=0"
        return self._post(path, encode_lines(lines), StreamAnswer, gzip=True).next

    def _post(
        self, path: str, body: bytes, wanted: type[Message], *, gzip: bool = False
    ) -> Message:
        connection = http.client.HTTPSConnection(
            self._address, self._port, timeout=_TIMEOUT_S, context=self._trust
        )
        headers = {"content-type": "application/json"}
        if gzip:
            headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            content = answer.read(MAX_MESSAGE_BYTES)
        except (OSError, ssl.SSLError, http.client.HTTPException) as error:
            raise DemoServerError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        try:
            if answer.status == 200:
                return decode_message(content, wanted)
            raise DemoServerError(decode_message(content, Refusal).problem)
        except MalformedMessageError as error:
            raise DemoServerError(f"it answers with status {answer.status}") from error
