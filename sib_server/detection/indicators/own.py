"""The addresses and the name of this machine, which are never indicators."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc/net")


def local_addresses4(fib_trie: str) -> set[str]:
    """The machine's IPv4 addresses in ``/proc/net/fib_trie``: each stands above its type."""
    found: set[str] = set()
    last = ""
    for line in fib_trie.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "|--":
            last = words[1]
        elif "/32" in line and "LOCAL" in words and last:
            found.add(last)
    return found


def local_addresses6(if_inet6: str) -> set[str]:
    """The machine's IPv6 addresses in ``/proc/net/if_inet6``: the first column, 32 hex digits."""
    found: set[str] = set()
    for line in if_inet6.splitlines():
        with suppress(ValueError, IndexError):
            found.add(str(ipaddress.IPv6Address(int(line.split()[0], 16))))
    return found


def own_values(proc: Path = _PROC) -> tuple[str, ...]:
    """This machine's addresses and host name, as far as they can be read."""
    found: set[str] = {socket.gethostname()}
    with suppress(OSError):
        found |= local_addresses4((proc / "fib_trie").read_text("ascii", errors="replace"))
    with suppress(OSError):
        found |= local_addresses6((proc / "if_inet6").read_text("ascii", errors="replace"))
    return tuple(sorted(found))
