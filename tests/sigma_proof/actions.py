"""Wanted events as real acts: a program at a path, with arguments, a parent, a directory, an
act."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any

from sigma.types import SigmaExists, SigmaFieldReference, SigmaNull

from tests.sigma_proof.generate import KEYWORDS, Wanted, Wish, fill

ROOT_USERS = {0: "root", 1: "daemon", 33: "www-data"}
_SEPARATORS = (" ", "", " x ")


@dataclass
class Act:
    """One act of one program.

    Attributes:
        fields: what the act is, in Sigma's fields: computed from the rest, not wished.
        words: what the stand-in does (see actor.c).
        existing: files that are there before.
    """

    rule: int
    kind: str
    image: str = "/opt/sib/tool"
    argv: list[str] = field(default_factory=lambda: ["tool"])
    parent_image: str = "/opt/sib/parent"
    parent_argv: list[str] = field(default_factory=lambda: ["parent"])
    cwd: str = "/"
    uid: int = 0
    words: list[str] = field(default_factory=lambda: ["exit"])
    existing: list[str] = field(default_factory=list)
    started_as: str = ""
    fields: dict[str, str] = field(default_factory=dict)


def path_value(wishes: list[Wish], base: str, kind: str) -> str:
    """An absolute, normal path for what is asked of it."""
    value = fill(wishes, base, ("", "/", "-"), kind)
    value = re.sub(r"/+", "/", value if value.startswith("/") else f"/opt/sib/{value}")
    if value.endswith("/"):
        value += "f"
    return posixpath.normpath(value)


class Maker:
    """Acts for one rule."""

    def __init__(self, number: int, wanted: Wanted, kind: str, definition: str = "") -> None:
        self.asked: dict[str, list[Wish]] = {}
        # In the rules that are tried, a program's path is compared with its parent's.
        self.references = [
            wish for wish in wanted.wishes if isinstance(wish.value.value, SigmaFieldReference)
        ]
        for wish in wanted.wishes:
            # Every act has these fields.
            if isinstance(wish.value.value, SigmaFieldReference | SigmaExists | SigmaNull):
                continue
            self.asked.setdefault(wish.field, []).append(wish)
        self.how = wanted.kind
        self.act = Act(number, wanted.kind)
        self.source = kind
        self.reads = "-p wa" not in definition

    def text(self, name: str, base: str) -> str:
        return fill(self.asked[name], base, _SEPARATORS, self.how) if name in self.asked else base

    def argument(self, name: str, base: str) -> str:
        asked = self.asked.get(name)
        return fill(asked, base, ("", "-", " "), self.how) if asked else base

    def path(self, name: str, base: str) -> str:
        return path_value(self.asked[name], "/opt/sib/d", self.how) if name in self.asked else base

    def number(self, name: str, base: int) -> int:
        text = self.text(name, str(base))
        return int(text) if text.isdigit() else base

    def process(self) -> None:
        act = self.act
        act.image = self.path("Image", act.image)
        command = self.text("CommandLine", posixpath.basename(act.image))
        act.argv = self.text(KEYWORDS, command).split(" ")
        act.parent_image = self.path("ParentImage", act.parent_image)
        for wish in self.references:
            if wish.holds:
                act.parent_image = act.image.swapcase() if self.how == "case" else act.image
        act.parent_argv = self.text(
            "ParentCommandLine", posixpath.basename(act.parent_image)
        ).split(" ")
        act.cwd = self.path("CurrentDirectory", "/")
        wants_root = all(w.holds for n in ("User", "LogonId") for w in self.asked.get(n, ()))
        act.uid = 0 if wants_root else 1

    def base_fields(self) -> dict[str, str]:
        act = self.act
        return {
            "Image": act.image,
            "CommandLine": " ".join(act.argv),
            KEYWORDS: " ".join(act.argv),
            "ParentImage": act.parent_image,
            "ParentCommandLine": " ".join(act.parent_argv),
            "CurrentDirectory": act.cwd,
            "User": ROOT_USERS[act.uid],
            "LogonId": str(act.uid),
        }

    def make(self) -> Act | None:
        getattr(self, f"_{self.source}")()
        return self.act

    def _process_creation(self) -> None:
        self.process()
        self.act.fields = self.base_fields()

    def _file_event(self) -> None:
        self.process()
        target = self.path("TargetFilename", "/opt/sib/file")
        way = len(target) % 3
        self.act.words = [
            ["write", target],
            ["rename", "/opt/sib/old", target],
            ["link", "/opt/sib/old", target],
        ][way]
        self.act.existing = ["/opt/sib/old"] if way else []
        self.act.fields = self.base_fields() | {"TargetFilename": target}

    def _network_connection(self) -> None:
        self.process()
        address = self.text("DestinationIp", "198.51.100.7")
        port = self.text("DestinationPort", "8080")
        fields = self.base_fields() | {"Initiated": "true"}
        if "DestinationHostname" in self.asked:
            name = self.text("DestinationHostname", "host").strip(".")
            self.act.words = ["query", "198.51.100.53", "53", name]
            fields |= {"DestinationHostname": name}
        else:
            self.act.words = ["connect", address, port]
            fields |= {"DestinationIp": address, "DestinationPort": port}
        self.act.fields = fields

    def _auditd(self) -> None:
        record = self._record()
        getattr(self, f"_audit_{record.lower()}", self._audit_other)(record)

    def _record(self) -> str:
        for wish in self.asked.get("type", ()):
            if wish.holds:
                return str(wish.value.value).upper()
        if "key" in self.asked or "SYSCALL" in self.asked or "exe" in self.asked:
            return "SYSCALL"
        return "PATH" if "name" in self.asked else "EXECVE"

    def _audit_other(self, record: str) -> None:
        self.act.fields = {"type": record}
        if record == "ADD_USER":
            self.act.image = "/usr/sbin/useradd"

    def _audit_execve(self, record: str) -> None:
        last = max((int(n[1:]) for n in self.asked if re.fullmatch(r"a\d+", n)), default=0)
        argv = [self.argument(f"a{number}", f"x{number}") for number in range(last + 1)]
        if KEYWORDS in self.asked:
            base = " ".join(argv)
            argv = fill(self.asked[KEYWORDS], base, (" ", "", " x "), self.how).split(" ")
        self.act.argv = argv
        self.act.fields = {"type": record, KEYWORDS: " ".join(argv)}
        self.act.fields |= {f"a{number}": text for number, text in enumerate(argv)}

    def _audit_path(self, record: str) -> None:
        name = self.path("name", "/opt/sib/file")
        creates = [w.holds for w in self.asked.get("nametype", ())]
        if creates and not creates[0]:
            self.act.words, self.act.existing, kind = ["read", name], [name], "NORMAL"
        elif creates or len(name) % 2:
            self.act.words, kind = ["write", name], "CREATE"
        else:
            verb = "read" if self.reads else "write"
            self.act.words, self.act.existing, kind = [verb, name], [name], "NORMAL"
        self.act.fields = {"type": record, "name": name, "nametype": kind}

    def _audit_syscall(self, record: str) -> None:
        act = self.act
        act.image = self.path("exe", "/opt/sib/tool")
        comm = self.text("comm", posixpath.basename(act.image))[:15]
        if comm != posixpath.basename(act.image)[:15]:
            act.started_as = f"/opt/links/{comm}"
        act.argv = [comm]
        call = self.text("SYSCALL", "execve")
        if call in {"sysinfo", "mknod", "memfd_create"}:
            act.words = [call, f"/tmp/node{self.act.rule}"]
        else:
            call = "execve"
        act.uid = 33 if any(w.holds for w in self.asked.get("euid", ())) else 0
        act.fields = {
            "type": record,
            "SYSCALL": call,
            "exe": act.image,
            "comm": comm,
            "euid": str(act.uid),
        }
        for wish in self.asked.get("key", ()):
            if not wish.holds:
                continue
            key = str(wish.value.value)
            act.fields["key"] = key
            if key == "susp_activity":
                act.image, act.fields["exe"] = "/usr/bin/wget", "/usr/bin/wget"
            if key.startswith("network_connect"):
                act.words, act.fields["SYSCALL"] = ["connect_ok", "127.0.0.1", "9"], "connect"


def corpus_kind(rule: Any) -> str | None:
    """Which maker a rule needs; ``None`` for rules about log lines."""
    source = rule.logsource
    if source.category in {"process_creation", "file_event", "network_connection"}:
        return str(source.category)
    return "auditd" if source.service == "auditd" else None
