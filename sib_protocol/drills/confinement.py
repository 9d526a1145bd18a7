"""What a drill may do at most: capabilities, refused system calls, limits. Pure data.

A drill that shall look like a container has a PID namespace of its own and can reach no process
outside it. One that shall look like the host at work cannot have one, since that is what a rule
tells the two apart by; so it sees no ``/proc`` of the host, and the kernel refuses it every way to
signal or to trace another process.
"""

from __future__ import annotations

import struct
from typing import Final

# Nothing here reaches beyond the drill's own files, network and processes.
_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID = range(5)
_SETGID, _SETUID, _NET_BIND_SERVICE, _NET_ADMIN, _NET_RAW = 6, 7, 10, 12, 13
_KILL, _SYS_CHROOT, _SYS_PTRACE, _SETFCAP = 5, 18, 19, 31

CAPABILITIES: Final = frozenset(
    {
        *(_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID),
        *(_SETGID, _SETUID, _NET_BIND_SERVICE, _NET_ADMIN, _NET_RAW, _SYS_CHROOT, _SETFCAP),
    }
)
"""What every drill has, inside its own namespaces."""

CONTAINED_CAPABILITIES: Final = CAPABILITIES | {_KILL, _SYS_PTRACE}
"""And one that sees no process but its own."""

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Key rings and io_uring are outside all namespaces.
_REFUSED: Final = {
    "x86_64": {"add_key": 248, "request_key": 249, "keyctl": 250, "io_uring_setup": 425},
    "aarch64": {"add_key": 217, "request_key": 218, "keyctl": 219, "io_uring_setup": 425},
}
_REFUSED_BESIDE_OTHERS: Final = {
    "x86_64": {
        "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
        "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "process_madvise": 440, "process_mrelease": 448,
        "setpriority": 141, "ioprio_set": 251, "sched_setaffinity": 203,
        "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314,
        "move_pages": 279, "migrate_pages": 256, "kcmp": 312,
    },
    "aarch64": {
        "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
        "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "process_madvise": 440, "process_mrelease": 448,
        "setpriority": 140, "ioprio_set": 30, "sched_setaffinity": 122,
        "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274,
        "move_pages": 239, "migrate_pages": 238, "kcmp": 272,
    },
}  # fmt: skip
_PRLIMIT: Final = {"x86_64": 302, "aarch64": 261}
_X32: Final = 0x40000000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def system_call_filter(machine: str, *, contained: bool) -> bytes | None:
    """The seccomp program for a drill; ``None`` for a machine that SIB does not know.

    Args:
        machine: as ``os.uname`` calls it.
        contained: whether the drill is alone in its PID namespace.
    """
    if machine not in _AUDIT_ARCH:
        return None
    refused = dict(_REFUSED[machine])
    program = [
        _instruction(_LOAD, 0, 0, 4),
        # Another architecture's numbers mean other calls.
        _instruction(_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        _instruction(_RETURN, 0, 0, _REFUSE),
        _instruction(_LOAD, 0, 0, 0),
        _instruction(_AT_LEAST, 0, 1, _X32),
        _instruction(_RETURN, 0, 0, _REFUSE),
    ]
    if not contained:
        refused |= _REFUSED_BESIDE_OTHERS[machine]
        program += [
            # prlimit of the own process (0) is how shells set limits; of others it is not.
            _instruction(_EQUAL, 0, 4, _PRLIMIT[machine]),
            _instruction(_LOAD, 0, 0, 16),
            _instruction(_EQUAL, 1, 0, 0),
            _instruction(_RETURN, 0, 0, _REFUSE),
            _instruction(_RETURN, 0, 0, _ALLOW),
        ]
    for number in sorted(refused.values()):
        program += [_instruction(_EQUAL, 0, 1, number), _instruction(_RETURN, 0, 0, _REFUSE)]
    program.append(_instruction(_RETURN, 0, 0, _ALLOW))
    return b"".join(program)
