"""Audit rules for hosts that run no auditd: each record type as the system calls behind it.

===========  =====================================================================================
EXECVE       a program starts; ``a0`` is ``argv[0]``, ``a1`` the first argument, and so on
SYSCALL      the system call of that name; where the rule names none, the start of the program
PATH         a file is opened, created, removed, renamed, linked, changed or run under that name
ADD_USER ..  the program that writes such a record starts (``useradd``, ``userdel``, ...)
===========  =====================================================================================

``key`` is given by the audit rules that a Sigma rule quotes in its ``definition``. Any other record
type is written by auditd alone, and a rule that needs one is refused.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from typing_extensions import override

from sib_server.detection.sigma.condition import (
    FALSE,
    TRUE,
    Node,
    all_of,
    any_of,
    bare,
    check,
    negate,
)
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.fields import (
    Field,
    Numeric,
    Path,
    Text,
)
from sib_server.detection.sigma.special_fields import (
    Absent,
    Choice,
    Constant,
    Unavailable,
)
from sib_server.detection.sigma.text import Pattern
from sib_server.detection.sigma.views import (
    COMMAND_LINE,
    LINKS,
    OPENED,
    OPENS,
    RENAMES,
    STARTS,
    View,
    syscalls,
)

MAX_ARGUMENTS: Final = 64
ALL_PERMISSIONS: Final = frozenset("rwxa")
_ABSENT: Final = Absent()
_READS: Final = "Reading the file counts, too: the rule quotes no audit rule that says otherwise."
_EVERY_FIELD: Final = (
    *(f"a{number}" for number in range(MAX_ARGUMENTS)),
    *("name", "nametype", "SYSCALL", "syscall", "comm", "exe", "key", "success", "exit", "argc"),
    *("uid", "euid", "auid", "gid", "egid", "pid", "ppid", "tty", "ses", "cwd", "unit", "acct"),
    *("data", "terminal", "res", "op", "subj", "proctitle"),
)
_ACCOUNT_PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ADD_USER": ("useradd", "newusers", "luseradd"),
        "DEL_USER": ("userdel", "luserdel"),
        "ADD_GROUP": ("groupadd", "lgroupadd"),
        "DEL_GROUP": ("groupdel", "lgroupdel"),
    }
)
_WELL_KNOWN_KEYS: Final[Mapping[str, Node]] = MappingProxyType(
    {
        # -S connect -F a2=16 -F success=1: a connection over IPv4 (an address of 16 bytes).
        "network_connect_4": all_of(
            (syscalls("connect"), check("fd.typechar", "=", "4"), check("evt.res", "=", "SUCCESS"))
        ),
        "network_connect_6": all_of(
            (syscalls("connect"), check("fd.typechar", "=", "6"), check("evt.res", "=", "SUCCESS"))
        ),
    }
)
"""Keys of the audit rules that SigmaHQ's rules refer to by a link instead of a quotation."""


@dataclass(frozen=True)
class Watch:
    """What the audit rules quoted in a Sigma rule's ``definition`` say.

    Attributes:
        permissions: of the watches on files (``-p``); all four where there is no watch.
        keys: key -> what is recorded under it.
    """

    permissions: frozenset[str]
    keys: Mapping[str, Node | FalcoUnsupportedError]


class Argument(Text):
    """``a1`` and on in an EXECVE record; Falco gives empty text past the last argument."""

    @override
    def exists(self) -> Node:
        index = re.search(r"\[(\d+)\]", self.expression)
        return bare("proc.cmdnargs", ">", index[1] if index else "0")

    @override
    def text(self, wanted: Pattern) -> Node:
        found = super().text(wanted)
        return self.exists() if wanted.operator == "exists" else found


@dataclass(frozen=True)
class SyscallArgument(Field):
    """``a0`` to ``a3`` in a SYSCALL record: hexadecimal digits, which no other text matches."""

    @override
    def text(self, wanted: Pattern) -> Node:
        if re.fullmatch(r"[0-9a-fA-F*?]*", wanted.text):
            raise self.refuse(wanted.text)
        return FALSE

    @override
    def refuse(self, what: str) -> FalcoUnsupportedError:
        return FalcoUnsupportedError(
            f"Falco does not record the arguments of a system call as auditd does ({what})"
        )


def _record(record: str, **fields: Field) -> Mapping[str, Field]:
    return MappingProxyType(
        {**dict.fromkeys(_EVERY_FIELD, _ABSENT), **fields, "type": Constant(record)}
    )


def _syscall_name(value: str) -> Node:
    return syscalls(value) if re.fullmatch(r"[a-z_0-9]+", value) else FALSE


def _execve() -> View:
    arguments = {f"a{n}": Argument(f"proc.args[{n - 1}]") for n in range(1, MAX_ARGUMENTS)}
    return View(
        "EXECVE record", STARTS, _record("EXECVE", a0=Text("proc.exe"), **arguments), COMMAND_LINE
    )


def _key_field(watch: Watch) -> Field:
    def unknown(value: str) -> Node:
        known = watch.keys.get(value, _WELL_KNOWN_KEYS.get(value))
        if known is None:
            raise FalcoUnsupportedError(
                f"the rule does not quote the audit rules with the key {value!r}"
            )
        if isinstance(known, FalcoUnsupportedError):
            raise known
        return known

    return Choice({}, unknown)


def _syscall(watch: Watch, *, names_call: bool) -> View:
    arguments = {f"a{n}": SyscallArgument() for n in range(4)}
    succeeded = bare("evt.rawres", ">=", "0")
    fields: dict[str, Field] = {
        "SYSCALL": Choice({}, _syscall_name),
        "syscall": Unavailable("the number of a system call differs between machines"),
        "comm": Text("proc.name"),
        "exe": Path("proc.exepath"),
        "key": _key_field(watch),
        "success": Choice(
            {"yes": succeeded, "1": succeeded, "no": negate(succeeded), "0": negate(succeeded)}
        ),
        "exit": Numeric("evt.rawres"),
        "uid": Unavailable("Falco records the effective user only (euid)"),
        "euid": Numeric("user.uid"),
        "auid": Numeric("user.loginuid"),
        "egid": Numeric("group.gid"),
        "pid": Numeric("proc.pid"),
        "ppid": Numeric("proc.ppid"),
    }
    # Without a name it could be any call that auditd was told to record; of those, every program
    # makes one: its start.
    events = TRUE if names_call else STARTS
    note = None if names_call else "A record without a system call's name is the program's start."
    return View("SYSCALL record", events, _record("SYSCALL", **arguments, **fields), note=note)


def _path_views(watch: Watch) -> Iterable[View]:
    def names(path: str, **kinds: Node) -> Mapping[str, Field]:
        every = dict.fromkeys(("normal", "create", "delete", "parent", "unknown"), FALSE)
        return _record("PATH", name=Path(path), nametype=Choice({**every, **kinds}))

    wanted = watch.permissions
    created = bare("evt.is_open_create", "=", "true")
    opened = all_of((syscalls(*OPENS), OPENED))
    if "r" not in wanted:
        opened = all_of((opened, bare("evt.is_open_write", "=", "true")))
    if wanted & {"r", "w"}:
        yield View(
            "PATH record of an open",
            opened,
            names("fd.name", create=created, normal=negate(created)),
            note=_READS if "r" in wanted else None,
        )
    changes = ("chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat")
    removals, additions = ("unlink", "unlinkat", "rmdir"), ("mkdir", "mkdirat")
    named = (*removals, *additions) if "w" in wanted else ()
    named = (*named, *changes) if "a" in wanted else named
    if named:
        yield View(
            "PATH record of a change",
            syscalls(*named),
            names(
                "fs.path.name",
                create=syscalls(*additions),
                delete=syscalls(*removals),
                normal=syscalls(*changes),
            ),
        )
    if "w" in wanted:
        yield View("PATH record of a new name", RENAMES, names("fs.path.target", create=TRUE))
        yield View("PATH record of an old name", RENAMES, names("fs.path.source", delete=TRUE))
        # Falco calls the new name of a link its source.
        yield View("PATH record of a link", LINKS, names("fs.path.source", create=TRUE))
    if "x" in wanted:
        yield View("PATH record of a program", STARTS, names("proc.exepath", normal=TRUE))


def audit_views(
    watch: Watch, records: Iterable[str], *, names_call: bool
) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """The views of ``service: auditd``.

    Args:
        watch: what the rule's definition says.
        records: the record types that the rule names, in upper case.
        names_call: whether the rule says which system call or key a SYSCALL record has.

    Returns:
        The views that Falco sees, and those that it does not: a rule that can hold in one of the
        latter is refused.
    """
    seen = [_execve(), _syscall(watch, names_call=names_call), *_path_views(watch)]
    unseen = []
    for record in sorted(set(records) - {"EXECVE", "SYSCALL", "PATH"}):
        programs = _ACCOUNT_PROGRAMS.get(record)
        if programs is None:
            fields = {name: Text("proc.name") for name in _EVERY_FIELD}
            unseen.append(View(f"{record} record", TRUE, _record(record, **fields)))
            continue
        starts = all_of((STARTS, check("tolower(basename(proc.exepath))", "in", *programs)))
        hidden = Unavailable(f"SIB sees that a program writes a {record} record, not what it says")
        seen.append(
            View(f"{record} record", starts, _record(record, **dict.fromkeys(_EVERY_FIELD, hidden)))
        )
    return tuple(seen), tuple(unseen)


def read_definition(definition: str) -> Watch:
    """Take the audit rules (``-w``, ``-a``) out of a Sigma rule's ``definition``."""
    permissions: set[str] = set()
    keys: dict[str, list[Node | FalcoUnsupportedError]] = {}
    for line in definition.splitlines():
        words = _words(line)
        options = list(zip(words[::2], words[1::2], strict=False))
        key = next((value for name, value in options if name == "-k"), None)
        key = next((v[4:] for n, v in options if n == "-F" and v.startswith("key=")), key)
        if not words or words[0] not in {"-w", "-a"}:
            continue
        if words[0] == "-w":
            allowed = next((value for name, value in options if name == "-p"), "rwxa")
            permissions |= set(allowed) & ALL_PERMISSIONS
            meaning: Node | FalcoUnsupportedError = _watched(words[1], set(allowed))
        else:
            meaning = _recorded(options)
        if key is not None:
            keys.setdefault(key.lower(), []).append(meaning)
    merged = {key: _merge(meanings) for key, meanings in keys.items()}
    return Watch(frozenset(permissions) or ALL_PERMISSIONS, MappingProxyType(merged))


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []


def _merge(
    meanings: Iterable[Node | FalcoUnsupportedError],
) -> Node | FalcoUnsupportedError:
    nodes: list[Node] = []
    for meaning in meanings:
        if isinstance(meaning, FalcoUnsupportedError):
            return meaning
        nodes.append(meaning)
    return any_of(nodes)


def _watched(path: str, permissions: set[str]) -> Node:
    """One ``-w``: a directory is watched with all below it."""
    spellings = [path]
    if re.match(r"/(bin|sbin|lib|lib64)/", path):
        # Where these are links into /usr, Falco sees the path behind the link.
        spellings.append(f"/usr{path}")

    def name(field: str) -> Node:
        if path.endswith("/"):
            return any_of(check(field, "startswith", spelling) for spelling in spellings)
        return any_of(check(field, "=", spelling) for spelling in spellings)

    watch = Watch(frozenset(permissions), {})
    fields = {
        "PATH record of an open": "fd.name",
        "PATH record of a change": "fs.path.name",
        "PATH record of a new name": "fs.path.target",
        "PATH record of an old name": "fs.path.source",
        "PATH record of a link": "fs.path.source",
        "PATH record of a program": "proc.exepath",
    }
    return any_of(all_of((view.events, name(fields[view.name]))) for view in _path_views(watch))


def _recorded(options: Iterable[tuple[str, str]]) -> Node | FalcoUnsupportedError:
    """One ``-a always,exit``: system calls under conditions."""
    calls: list[str] = []
    conditions: list[Node] = []
    for option, value in options:
        if option == "-S":
            calls.extend(value.split(","))
        elif option == "-F" and not value.startswith(("arch=", "key=")):
            condition = _condition(value)
            if condition is None:
                return FalcoUnsupportedError(f"Falco cannot tell {value!r} of a system call")
            conditions.append(condition)
    if not calls:
        return FalcoUnsupportedError("an audit rule without a system call")
    return all_of((syscalls(*calls), *conditions))


def _condition(value: str) -> Node | None:
    name, _, wanted = value.partition("=")
    if not wanted:
        return None
    numbers = {"euid": "user.uid", "auid": "user.loginuid", "egid": "group.gid"}
    if name in numbers and re.fullmatch(r"-?\d+", wanted):
        return check(numbers[name], "=", wanted)
    if name in {"path", "exe"}:
        return check({"path": "fd.name", "exe": "proc.exepath"}[name], "=", wanted)
    if name == "success":
        return bare("evt.rawres", ">=" if wanted == "1" else "<", "0")
    return None
