"""The enrollment token as text: one line that a person pastes on a host.

``sib1.`` and base64url of a JSON object with the server's addresses, the CA's pin, the token's id
and its secret. The pin makes the first contact safe: the host knows the CA before it speaks.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import msgspec

from sib_protocol.errors import ExitCode, SibError

_PREFIX: Final = "sib1."
_MAX_TEXT: Final = 4096
_PIN: Final = re.compile(r"[0-9a-f]{64}")
_ID: Final = re.compile(r"[0-9a-f]{16}")
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_URL: Final = re.compile(r"https://[A-Za-z0-9._\-\[\]:]+")


class TokenFormatError(SibError):
    """A text that is not an enrollment token."""

    exit_code = ExitCode.USAGE

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"this is not an enrollment token: {reason}",
            "make one on the server with 'sib-server token create' and paste its whole line",
        )
        self.reason = reason


class EnrollmentToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token says.

    Attributes:
        servers: ``https://host:port`` addresses, tried in order; at least one.
        pin: SHA-256 of the CA certificate's DER, lower-case hex.
        id: the public half, 16 hex digits; names the token in lists and logs.
        secret: 32 random bytes, base64url without padding.
    """

    servers: tuple[str, ...]
    pin: str
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"EnrollmentToken(servers={self.servers}, id={self.id}, secret=…)"

    def text(self) -> str:
        """The line to paste."""
        body = base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=")
        return _PREFIX + body.decode()

    @classmethod
    def parse(cls, text: str) -> EnrollmentToken:
        """Read a pasted line; white space around it is forgiven.

        Raises:
            TokenFormatError: it is not a token; the secret is never in the message.
        """
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise TokenFormatError(f"it does not begin with {_PREFIX}")
        if len(text) > _MAX_TEXT:
            raise TokenFormatError("it is too long")
        body = text[len(_PREFIX) :]
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            token = msgspec.json.decode(raw, type=cls)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            # The cause may quote the secret: it is left out on purpose.
            raise TokenFormatError("it is cut short or mistyped") from None
        if not (
            token.servers
            and all(_URL.fullmatch(server) for server in token.servers)
            and _PIN.fullmatch(token.pin)
            and _ID.fullmatch(token.id)
            and _SECRET.fullmatch(token.secret)
        ):
            raise TokenFormatError("a part of it is not of its form")
        return token
