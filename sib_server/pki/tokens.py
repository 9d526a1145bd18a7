"""Enrollment tokens as the server keeps them: only the secret's SHA-256 is stored.

To the outside, a token that does not exist and a wrong secret are one and the same refusal, in the
same time. What else is wrong with a token is told only to who knows its secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from sib_protocol.errors import ExitCode, SibError
from sib_server.errors import RefusedError
from sib_server.state.schema import tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sib_server.state.database import StateDatabase

LONGEST_TTL: Final = timedelta(days=90)
MOST_USES: Final = 100_000
MOST_TAGS: Final = 32
_KEEP_DEAD_NS: Final = 30 * 24 * 3600 * 10**9
_TAG: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_ID: Final = re.compile(r"[0-9a-f]{16}")
_NO_TOKEN_DIGEST: Final = "0" * 64
_MAKE_ANOTHER: Final = "make a new one with 'sib-server token create'"


class TokenUnknownError(RefusedError):
    """No token has this id."""

    code = "token_invalid"
    cause = "unknown id"

    def __init__(self) -> None:
        super().__init__("this token is not valid", _MAKE_ANOTHER)


class TokenSecretError(TokenUnknownError):
    """The token exists, the secret is another one; told like :class:`TokenUnknownError`."""

    cause = "wrong secret"


class TokenExpiredError(RefusedError):
    """The token's time is over."""

    code = "token_expired"

    def __init__(self, token_id: str) -> None:
        super().__init__(f"token {token_id} has expired", _MAKE_ANOTHER)


class TokenUsedUpError(RefusedError):
    """The token was used as often as it may be."""

    code = "token_used_up"

    def __init__(self, token_id: str) -> None:
        super().__init__(f"token {token_id} has been used as often as it may be", _MAKE_ANOTHER)


class TokenRevokedError(RefusedError):
    """The token was taken back."""

    code = "token_revoked"

    def __init__(self, token_id: str) -> None:
        super().__init__(f"token {token_id} has been revoked", _MAKE_ANOTHER)


class TokenReplayedError(RefusedError):
    """The very same enrollment was answered before."""

    code = "token_replayed"
    status = 409

    def __init__(self, token_id: str, host_name: str) -> None:
        super().__init__(
            f"this request with token {token_id} was answered before, with host {host_name}",
            f"if its answer never came: 'sib-server host remove {host_name}', then a new token",
        )


class TokenNotFoundError(SibError):
    """A person names a token that is not there."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, token_id: str) -> None:
        super().__init__(f"there is no token {token_id!r}", "see 'sib-server token list'")


class TokenLimitsError(SibError):
    """A token is asked for that SIB does not make."""

    exit_code = ExitCode.USAGE


class TokenState(Enum):
    """What a token is good for."""

    USABLE = "usable"
    EXPIRED = "expired"
    USED_UP = "used up"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as the server knows it; the secret is not in it.

    Attributes:
        id: 16 hex digits.
        created_ns: nanoseconds since 1970 UTC.
        expires_ns: nanoseconds since 1970 UTC.
        uses: how many hosts it may enroll in all.
        uses_left: how many more.
        tags: what those hosts get.
        revoked_ns: nanoseconds since 1970 UTC, or ``None``.
    """

    id: str
    created_ns: int
    expires_ns: int
    uses: int
    uses_left: int
    tags: tuple[str, ...]
    revoked_ns: int | None

    def state(self, now_ns: int) -> TokenState:
        """What the token is good for at a time."""
        if self.revoked_ns is not None:
            return TokenState.REVOKED
        if now_ns >= self.expires_ns:
            return TokenState.EXPIRED
        if self.uses_left <= 0:
            return TokenState.USED_UP
        return TokenState.USABLE


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token at its making, the only time that its secret is known.

    Attributes:
        record: what is stored.
        secret: 32 random bytes, base64url.
    """

    record: TokenRecord
    secret: str

    def __repr__(self) -> str:
        return f"NewToken(record={self.record}, secret=…)"


def secret_digest(secret: str) -> str:
    """SHA-256, hex. A plain hash does: the secret has 256 random bits, nothing to guess from."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def check_limits(ttl: timedelta, uses: int, tags: Sequence[str]) -> None:
    """Whether such a token may be made.

    Raises:
        TokenLimitsError: no; says why.
    """
    if not timedelta(seconds=1) <= ttl <= LONGEST_TTL:
        raise TokenLimitsError(
            f"a token cannot live for {ttl}", f"choose 1 s to {LONGEST_TTL.days} days"
        )
    if not 1 <= uses <= MOST_USES:
        raise TokenLimitsError(f"a token cannot have {uses} uses", f"choose 1 to {MOST_USES}")
    if len(tags) > MOST_TAGS:
        raise TokenLimitsError(f"{len(tags)} tags are too many", f"give {MOST_TAGS} at most")
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise TokenLimitsError(
                f"{tag[:80]!r} cannot be a tag",
                "use up to 64 letters, digits, dots, dashes and underscores",
            )


def _record(row: sa.Row[Any]) -> TokenRecord:
    return TokenRecord(
        id=row.id,
        created_ns=row.created_ns,
        expires_ns=row.expires_ns,
        uses=row.uses,
        uses_left=row.uses_left,
        tags=tuple(row.tags),
        revoked_ns=row.revoked_ns,
    )


def verify_token(connection: sa.Connection, token_id: str, secret: str) -> TokenRecord:
    """Find a token by its two halves; says nothing of whether it is usable.

    Raises:
        TokenUnknownError: no such id.
        TokenSecretError: another secret.
    """
    # A text that cannot be an id is asked for as none: PostgreSQL would choke on some of them.
    wanted = token_id if _ID.fullmatch(token_id) else ""
    row = connection.execute(sa.select(tokens).where(tokens.c.id == wanted)).one_or_none()
    # An unknown id goes the same way, so that time tells nothing.
    stored = _NO_TOKEN_DIGEST if row is None else row.secret_digest
    matches = hmac.compare_digest(stored, secret_digest(secret))
    if row is None:
        raise TokenUnknownError
    if not matches:
        raise TokenSecretError
    return _record(row)


def spend_token(connection: sa.Connection, token: TokenRecord, now_ns: int) -> None:
    """Use a verified token once, in the caller's write transaction: a rollback gives it back.

    Raises:
        TokenRevokedError, TokenExpiredError, TokenUsedUpError: it is not usable.
    """
    spent = connection.execute(
        sa.update(tokens)
        .where(
            tokens.c.id == token.id,
            tokens.c.uses_left > 0,
            tokens.c.revoked_ns.is_(None),
            tokens.c.expires_ns > now_ns,
        )
        .values(uses_left=tokens.c.uses_left - 1)
    )
    if spent.rowcount == 1:
        return
    # Read again: another instance may have spent or revoked it since it was verified.
    row = connection.execute(sa.select(tokens).where(tokens.c.id == token.id)).one_or_none()
    state = TokenState.REVOKED if row is None else _record(row).state(now_ns)
    if state is TokenState.REVOKED:
        raise TokenRevokedError(token.id)
    if state is TokenState.EXPIRED:
        raise TokenExpiredError(token.id)
    raise TokenUsedUpError(token.id)


class TokenStore:
    """Making, listing and revoking tokens.

    Args:
        state: the state database.
        clock: nanoseconds since 1970 UTC.
    """

    def __init__(self, state: StateDatabase, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._state = state
        self._clock = clock

    def create(self, *, ttl: timedelta, uses: int = 1, tags: Sequence[str] = ()) -> NewToken:
        """Make a token; those that have been dead for 30 days are forgotten on the way.

        Raises:
            TokenLimitsError: ttl, uses or tags are out of bounds.
        """
        check_limits(ttl, uses, tags)
        now = self._clock()
        secret = secrets.token_urlsafe(32)
        record = TokenRecord(
            id=secrets.token_hex(8),
            created_ns=now,
            expires_ns=now + ttl // timedelta(microseconds=1) * 1000,
            uses=uses,
            uses_left=uses,
            tags=tuple(dict.fromkeys(tags)),
            revoked_ns=None,
        )
        with self._state.begin() as connection:
            connection.execute(sa.delete(tokens).where(tokens.c.expires_ns < now - _KEEP_DEAD_NS))
            connection.execute(
                sa.insert(tokens).values(
                    id=record.id,
                    secret_digest=secret_digest(secret),
                    created_ns=now,
                    expires_ns=record.expires_ns,
                    uses=uses,
                    uses_left=uses,
                    tags=list(record.tags),
                )
            )
        return NewToken(record, secret)

    def list(self) -> list[TokenRecord]:
        """Every token that is not forgotten yet, the newest first."""
        query = sa.select(tokens).order_by(tokens.c.created_ns.desc(), tokens.c.id)
        with self._state.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def revoke(self, token_id: str) -> TokenRecord:
        """Take a token back; once more does no harm.

        Raises:
            TokenNotFoundError: there is none of this id.
        """
        with self._state.begin() as connection:
            connection.execute(
                sa.update(tokens)
                .where(tokens.c.id == token_id, tokens.c.revoked_ns.is_(None))
                .values(revoked_ns=self._clock())
            )
            row = connection.execute(sa.select(tokens).where(tokens.c.id == token_id)).one_or_none()
            if row is None:
                raise TokenNotFoundError(token_id)
            return _record(row)
