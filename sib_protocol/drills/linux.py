"""The few system calls that Python has no name for on all of its versions that SIB runs on."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}


def _call(name: str, *arguments: object) -> None:  # pragma: no cover
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:  # pragma: no cover - in a process that leaves its root
    """Leave namespaces behind. Raises OSError."""
    _call("unshare", ctypes.c_int(flags))


def mount(
    source: str, target: str, kind: str = "", flags: int = 0, options: str = ""
) -> None:  # pragma: no cover
    """Mount something. Raises OSError."""
    _call(
        "mount",
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def unmount(target: str, flags: int = MNT_DETACH) -> None:  # pragma: no cover
    """Take a mount away. Raises OSError."""
    _call("umount2", target.encode(), ctypes.c_int(flags))


def pivot_root(new: str, old: str) -> None:  # pragma: no cover - in a process that leaves its root
    """Make another root the root. Raises OSError."""
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(f"no pivot_root known for {os.uname().machine}")
    # libc has no wrapper for it.
    _call("syscall", ctypes.c_long(number), new.encode(), old.encode())


def set_hostname(name: str) -> None:  # pragma: no cover - in a process that leaves its root
    """Name this UTS namespace. Raises OSError."""
    _call("sethostname", name.encode(), ctypes.c_size_t(len(name)))


def _prctl(option: int, *arguments: int) -> None:  # pragma: no cover
    padded = [*arguments, 0, 0, 0, 0][:4]
    _call("prctl", ctypes.c_int(option), *(ctypes.c_ulong(value) for value in padded))


def set_name(name: str) -> None:  # pragma: no cover - in a process that leaves its root
    """What this process is called (15 bytes at most)."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(text))


def die_with_parent() -> None:  # pragma: no cover - in a process that leaves its root
    """Be killed when the parent ends."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def become_subreaper() -> None:  # pragma: no cover - in a process that leaves its root
    """Become the parent of all orphans below this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:  # pragma: no cover - in a process that leaves its root
    """No set-user-id program gives this process or its children anything any more."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities(kept: Iterable[int]) -> None:  # pragma: no cover
    """Give up all capabilities but some, for this process and all that it starts."""
    wanted = set(kept)
    for number in range(64):
        if number not in wanted:
            try:
                _prctl(_PR_CAPBSET_DROP, number)
            except OSError:
                break  # The kernel knows no more of them.
    words = [sum(1 << bit for bit in range(32) if bit + 32 * word in wanted) for word in (0, 1)]
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable: low words first.
    data = struct.pack("<6I", words[0], words[0], 0, words[1], words[1], 0)
    _call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(data))


def install_filter(program: bytes) -> None:  # pragma: no cover - in a process that leaves its root
    """Put a seccomp filter in force for good. Raises OSError.

    Args:
        program: instructions of 8 bytes each.
    """
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a count, padding, a pointer.
    head = ctypes.create_string_buffer(
        struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    )
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(head))
