"""A test for domains in DNS questions, as Falco sees them. Pure.

In a question a name stands as its labels, each behind a byte with its length. Falco shows the bytes
of what was sent, as far as it captures them (80 by default: names of up to about 60 characters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_ASK: Final = (
    "evt.type in (sendto, sendmsg, sendmmsg, write, writev) and fd.l4proto = udp and fd.sport = 53"
)


def lookup_condition(domains: Sequence[str]) -> str:
    """A Falco condition that holds where a process asks for one of the domains or one below it.

    Args:
        domains: in canonical spelling, at least one.
    """
    tests = " or ".join(f"evt.buffer icontains {wire_pattern(domain)}" for domain in domains)
    return f"{_ASK} and ({tests})"


def wire_pattern(domain: str) -> str:
    """A domain as Falco shows it inside a question."""
    return '"' + ".".join(domain.split(".")) + '"'
