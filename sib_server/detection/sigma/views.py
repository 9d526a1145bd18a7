"""What each Sigma log source is in Falco: which system calls, and which field is which.

A log source is one or more *views*. A view is a kind of event (a condition, cheapest test first)
and the Falco field for each Sigma field. A rule is converted once for each view, with the view's
fields, and fires where one of them holds: so a rule about a file name covers an open and a rename,
each with its own field, and an audit rule about ``type`` becomes a rule about the system calls that
would have written such a record. Fields that a view never has match nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sib_server.detection.sigma.condition import Check, Node, all_of, bare, check
from sib_server.detection.sigma.fields import (
    Address,
    CommandLine,
    Directory,
    Field,
    Numeric,
    Path,
    Text,
)
from sib_server.detection.sigma.special_fields import (
    Absent,
    Constant,
    QueriedName,
    Unavailable,
)


@dataclass(frozen=True)
class View:
    """One kind of event of a log source.

    Attributes:
        name: for messages.
        events: which events these are.
        fields: Sigma's field name -> the field here; any other name is refused.
        keywords: where a value without a field is looked for; ``None`` where it can be nowhere.
        note: how these events differ from those that the rule's author had in mind.
    """

    name: str
    events: Node
    fields: Mapping[str, Field]
    keywords: Field | None = None
    note: str | None = None


def syscalls(*names: str) -> Check:
    """The cheapest test of all: the kind of event."""
    return Check("evt.type", "in" if len(names) > 1 else "=", names)


STARTS: Final = all_of((syscalls("execve", "execveat"), bare("evt.rawres", "=", "0")))
"""Starts that succeeded: a failed one would fire again for the program that tried it."""
OPENS: Final = ("open", "openat", "openat2", "creat")
OPENED: Final = bare("fd.num", ">=", "0")
RENAMES: Final = syscalls("rename", "renameat", "renameat2")
LINKS: Final = syscalls("link", "linkat", "symlink", "symlinkat")
_IP: Final = check("fd.typechar", "in", "4", "6")

COMMAND_LINE: Final = CommandLine(
    "proc.exeline", "proc.exe", bare("proc.cmdnargs", "=", "0"), "proc.cmdline"
)
PARENT_COMMAND_LINE: Final = CommandLine(
    'concat(proc.pexe, " ", proc.aargs[1])',
    "proc.pexe",
    check("proc.aargs[1]", "=", ""),
    "proc.pcmdline",
)

_NO_HASH: Final = Unavailable("Falco computes no hash of a program or file")
_NO_VERSION: Final = Unavailable("programs on Linux carry no version resource (OriginalFileName)")
_WINDOWS: Final = Unavailable("the field exists on Windows only")
_NOT_SEEN: Final[Mapping[str, Field]] = MappingProxyType(
    {
        **dict.fromkeys(("Hashes", "md5", "sha1", "sha256", "Imphash", "imphash"), _NO_HASH),
        **dict.fromkeys(
            ("OriginalFileName", "Company", "Description", "Product", "FileVersion"), _NO_VERSION
        ),
        **dict.fromkeys(("IntegrityLevel", "ParentIntegrityLevel", "LogonGuid"), _WINDOWS),
        "ParentUser": Unavailable("Falco has no field for the parent's user"),
        "ProcessGuid": Unavailable("Falco gives a process no GUID"),
        "ParentProcessGuid": Unavailable("Falco gives a process no GUID"),
    }
)
_PROCESS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        **_NOT_SEEN,
        "Image": Path("proc.exepath"),
        "CommandLine": COMMAND_LINE,
        "ParentImage": Path("proc.pexepath"),
        "ParentCommandLine": PARENT_COMMAND_LINE,
        "User": Text("user.name"),
        "CurrentDirectory": Directory("proc.cwd"),
        "LogonId": Numeric("user.uid"),
        "ProcessId": Numeric("proc.pid"),
        "ParentProcessId": Numeric("proc.ppid"),
        "ProcessName": Text("proc.name"),
    }
)


def _process_fields(**more: Field) -> Mapping[str, Field]:
    return MappingProxyType({**_PROCESS, **more})


PROCESS_CREATION: Final = (
    View("process start", STARTS, _process_fields(EventID=Constant("1")), COMMAND_LINE),
)

FILE_EVENT: Final = (
    View(
        "file written",
        all_of((syscalls(*OPENS), bare("evt.is_open_write", "=", "true"), OPENED)),
        _process_fields(TargetFilename=Path("fd.name"), EventID=Constant("11")),
        note="A file that exists and is written to counts, too.",
    ),
    View(
        "file moved",
        RENAMES,
        _process_fields(TargetFilename=Path("fs.path.target"), EventID=Constant("11")),
    ),
    View(
        "file linked",
        LINKS,
        # Falco calls the new name of a link its source.
        _process_fields(TargetFilename=Path("fs.path.source"), EventID=Constant("11")),
    ),
)

_CONNECTION: Final[Mapping[str, Field]] = MappingProxyType(
    {
        **_PROCESS,
        "DestinationIp": Address("fd.sip", "fd.snet"),
        "DestinationPort": Numeric("fd.sport"),
        "SourceIp": Address("fd.cip", "fd.cnet"),
        "SourcePort": Numeric("fd.cport"),
        "Protocol": Text("fd.l4proto"),
        "EventID": Constant("3"),
        "DestinationHostname": Absent(),
        "SourceHostname": Unavailable("Falco does not resolve the client's name"),
    }
)

NETWORK_CONNECTION: Final = (
    View(
        "connection made",
        all_of((syscalls("connect"), _IP, check("evt.res", "in", "SUCCESS", "EINPROGRESS"))),
        MappingProxyType({**_CONNECTION, "Initiated": Constant("true")}),
        note="Datagrams without a connection are not seen.",
    ),
    View(
        "connection taken",
        all_of((syscalls("accept", "accept4"), _IP, bare("evt.rawres", ">=", "0"))),
        MappingProxyType({**_CONNECTION, "Initiated": Constant("false")}),
    ),
)

_ONLY_A_LOOKUP: Final = Unavailable(
    "Falco sees a host name in the DNS query and the address in the connection, never both"
)
NAME_LOOKUP: Final = (
    View(
        "name looked up",
        all_of(
            (
                syscalls("sendto", "sendmsg", "sendmmsg"),
                check("fd.l4proto", "=", "udp"),
                check("fd.sport", "=", "53"),
            )
        ),
        _process_fields(
            DestinationHostname=QueriedName(),
            Initiated=Constant("true"),
            EventID=Constant("3"),
            **dict.fromkeys(
                ("DestinationIp", "DestinationPort", "SourceIp", "SourcePort", "Protocol"),
                _ONLY_A_LOOKUP,
            ),
        ),
        note="A connection to a name is seen as the DNS query for it.",
    ),
)
"""For rules with ``DestinationHostname``: a connection to a name is seen as the look-up before
it."""
