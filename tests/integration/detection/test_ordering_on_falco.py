"""Conditions drawn at random mean the same to the real Falco as written and as ordered."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sib_server.detection.rules.collect import Origin, SourceFile, collect
from sib_server.detection.rules.ordering import Orderer
from sib_server.detection.rules.reading import read_items
from tests.support.components import component
from tests.support.engine import RecordingFalco, live_falco, replayed

pytestmark = pytest.mark.timeout(300)

COUNT = int(os.environ.get("SIB_FALCO_ORDERED", "250"))
NAMES = [
    {"list": "shells", "items": ["sh", "bash", "dash"]},
    {"list": "readers", "items": ["cat", "two words", "head"]},
    {"macro": "by_shell", "condition": "(proc.pname in (shells) or not proc.pname exists)"},
    {"macro": "reads", "condition": "evt.type in (open, openat) and evt.is_open_read = true"},
]
EVERYTHING = {
    "rule": "everything", "desc": "d", "output": "o", "priority": "NOTICE",
    "condition": "evt.type in (execve, open, openat)",
}  # fmt: skip
ACTS = """
cat /etc/passwd > "$1/copy"; head -c 1 "$1/copy"; ln -s copy "$1/link"; cat "$1/link"
cat "$1/missing"; mkdir "$1/a b"; touch "$1/a b/c"; chmod 700 "$1/copy"; rm -r "$1/a b"
bash -c 'sh -c "cat /etc/hostname; exit 0"'; env -i cat /etc/group; nosuchprogram; exit 0
"""


def record(program: Path, folder: Path) -> tuple[Path, int]:
    """What a few shells do, and their session's id."""
    rules = folder / "everything.yaml"
    rules.write_text(json.dumps([EVERYTHING]))
    work = folder / "work"
    work.mkdir()
    with RecordingFalco(program, [rules], folder) as falco:
        done = subprocess.Popen(
            ["/bin/sh", "-c", ACTS, "sh", str(work)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        done.wait(timeout=60)
        falco.settle()
    (recorded,) = folder.glob("recorded*.scap")
    return recorded, done.pid


TEXTS = {
    "proc.name": ["sh", "cat", "bash", "CAT", "nosuch", "(shells)", "(readers, rm)"],
    "proc.pname": ["sh", "bash", "(shells)", "(shells, x)"],
    "proc.aname": ["sh", "bash", "(shells)", "(readers)"],
    "proc.aname[2]": ["sh", "python3", "(shells)"],
    "proc.aname[9]": ["sh", "systemd"],
    "proc.cmdline": ['"cat /etc/passwd"', "sh"],
    "fd.name": ["/etc/passwd", "/etc", "(/etc/passwd, /etc/group)", '""'],
    "fd.directory": ["/etc", "/tmp", "(/etc, /proc)"],
    "fd.filename": ["passwd", "copy", "(copy, link)"],
    "fs.path.name": ["/etc/passwd", "/nowhere", "(/etc/passwd, /x)"],
    "evt.type": ["execve", "openat", "(openat, unlinkat)", "(execve, chmod, mkdir)"],
    "evt.arg.flags": ["O_CREAT", "x"],
    "fd.typechar": ["f", "4", "(f, u)"],
    "user.name": ["root", "nobody"],
    "fd.sip": ["1.2.3.4", "(1.2.3.4, 10.0.0.0)"],
}
NUMBERS = {
    "evt.rawres": [0, -2, 3], "fd.num": [0, 3, -1], "user.uid": [0, 1000], "proc.tty": [0],
    "proc.nchilds": [0, 1],
}  # fmt: skip
FURTHER = [
    "proc.name = val(proc.pname)", "proc.pname != val(proc.name)", "tolower(proc.name) = cat",
    "toupper(proc.name) in (CAT, SH)", "len(proc.name) > 2",
    "basename(proc.exepath) = val(proc.name)",
    "by_shell", "reads", "evt.is_open_write = true", "evt.is_open_read = false",
    "fd.name pmatch (/etc, /usr/lib)", "fd.directory pmatch (/proc)", "proc.cmdline glob *passwd*",
    'proc.name regex "(ca|s).*"', "fd.name startswith oneof (/etc, /nowhere)",
    "proc.args contains anyof (copy, link)", "fd.ip exists", "proc.env contains PATH",
]  # fmt: skip


class Author:
    """Writes conditions."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def check(self) -> str:
        pick = self._chance.choice
        kinds: list[Callable[[], str]] = [
            lambda: pick(FURTHER), self._number, self._text, self._text, self._text,
        ]  # fmt: skip
        return pick(kinds)()

    def _number(self) -> str:
        name = self._chance.choice([*NUMBERS])
        operator = self._chance.choice(["=", "!=", "<", ">="])
        return f"{name} {operator} {self._chance.choice(NUMBERS[name])}"

    def _text(self) -> str:
        name = self._chance.choice([*TEXTS])
        value = self._chance.choice(TEXTS[name])
        if value.startswith("("):
            return f"{name} in {value}"
        plain = name in {"evt.type", "fd.sip", "fd.typechar"}
        words = ["=", "!="] if plain else ["=", "=", "!=", "contains", "startswith", "endswith"]
        return self._chance.choice(
            [f"{name} {self._chance.choice(words)} {value}", f"{name} exists"]
        )

    def condition(self, depth: int = 3) -> str:
        kind = self._chance.choice(["check", "and", "or", "or", "not"]) if depth else "check"
        if kind == "check":
            return self.check()
        if kind == "not":
            return f"not ({self.condition(depth - 1)})"
        parts = [self.condition(depth - 1) for _ in range(self._chance.randint(2, 3))]
        return f"({f' {kind} '.join(parts)})"


def test_random_conditions_fire_for_the_same_events(tmp_path: Path) -> None:
    recorded, session = record(live_falco(), tmp_path)
    author = Author(random.Random(20261126))
    conditions = [f"{author.condition()} and proc.sid = {session}" for _ in range(COUNT)]
    items, wrong = read_items("names.yaml", json.dumps(NAMES).encode())
    rules, _ = collect([SourceFile("names.yaml", Origin.SIB, "names", tuple(items))])
    assert not wrong
    orderer = Orderer(rules)
    files = []
    for kind, make in (("written", str), ("ordered", orderer.ordered)):
        head = {"desc": "d", "output": "%evt.num", "priority": "NOTICE", "warn_evttypes": False}
        made = [
            {"rule": f"r{number}", **head, "condition": make(text)}
            for number, text in enumerate(conditions)
        ]
        files.append(tmp_path / f"{kind}.yaml")
        files[-1].write_text(json.dumps([*NAMES, *made]))
    plugins = component("falco", "plugins", "libcontainer.so").parent
    written, ordered = (
        replayed(live_falco(), [file], recorded, plugins, tmp_path) for file in files
    )
    different = {rule for rule, _ in written ^ ordered}
    assert not different, [conditions[int(rule[1:])] for rule in different]
    fired = {rule for rule, _ in written}
    assert COUNT / 10 < len(fired) < COUNT
    changed = sum(orderer.ordered(text) != text for text in conditions)
    assert changed > COUNT / 2
