"""A test for domains in DNS questions, as Falco sees them. Pure.

In a question a name stands as its labels, each behind a byte with its length, with a zero byte at
the end. Falco compares those bytes exactly: a question in other letters' case is not seen, and
neither are questions over TLS, over a resolver's own socket, or beyond what Falco captures of a
buffer (80 bytes by default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASK: Final = "evt.type in (sendto, sendmsg, sendmmsg) and fd.sport = 53"
_CAPTURED: Final = 80
_HEADER: Final = 12


def wire_name(domain: str) -> bytes:
    """A domain as it stands in a question."""
    labels = domain.encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def is_visible(domain: str) -> bool:
    """Whether a question for just this domain fits into what Falco captures."""
    return _HEADER + len(wire_name(domain)) <= _CAPTURED


def lookup_condition(domains: Sequence[str]) -> str:
    """A Falco condition that holds where a process asks for one of the domains or one below it.

    Args:
        domains: in canonical spelling, at least one.
    """
    tests = " or ".join(f"evt.buffer bcontains {wire_name(domain).hex()}" for domain in domains)
    return f"{_ASK} and ({tests})"
