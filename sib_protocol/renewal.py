"""When a certificate is renewed. Pure; both sides use it.

Every certificate begins before it is issued, because hosts' clocks are wrong; its life counts from
its issue. All times are seconds since 1970 UTC.
"""

from __future__ import annotations

from typing import Final

from sib_protocol.limits import MAX_CERTIFICATE_LIFE_DAYS

BACKDATE_SECONDS: Final = 48 * 3600
"""How long before its issue a certificate begins to be valid."""

LIFE_SECONDS: Final = MAX_CERTIFICATE_LIFE_DAYS * 24 * 3600
"""How long after its issue a certificate ends, unless its CA ends sooner."""

_RENEW_AT: Final = 2 / 3
_SOONEST: Final = 1 / 4
_JITTER: Final = 1 / 20


def issued_at(not_before: float, not_after: float) -> float:
    """When a certificate was issued, by the server's clock."""
    issued = not_before + BACKDATE_SECONDS
    # A certificate that does not begin early enough for that was not backdated.
    return issued if issued < not_after else not_before


def renewal_time(
    not_before: float, not_after: float, jitter: float, *, received: float | None = None
) -> float:
    """When to renew: at two thirds of the life, less up to a twentieth of it.

    Args:
        not_before: of the certificate.
        not_after: of the certificate.
        jitter: 0 to 1, drawn once a certificate, so that a fleet enrolled at one instant does not
            renew at one instant.
        received: when the certificate came, by the clock that the answer shall be in; where it
            is known, a clock that is wrong by days does not matter.
    """
    issued = issued_at(not_before, not_after)
    start = issued if received is None else received
    return start + (not_after - issued) * (_RENEW_AT - _JITTER * jitter)


def renewal_due(
    not_before: float,
    not_after: float,
    now: float,
    jitter: float,
    *,
    received: float | None = None,
) -> bool:
    """Whether it is time to renew.

    At :func:`renewal_time` by the clock that saw the certificate come. That clock may have been put
    right since, and then counts from a time that never was: so it is also time when the certificate
    itself says so, but not before a quarter of its life, or a clock that stays days ahead would
    have it renewed again and again.
    """
    if received is not None and now >= received:
        if now >= renewal_time(not_before, not_after, jitter, received=received):
            return True
        if now < received + (not_after - issued_at(not_before, not_after)) * _SOONEST:
            return False
    return now >= renewal_time(not_before, not_after, jitter)
