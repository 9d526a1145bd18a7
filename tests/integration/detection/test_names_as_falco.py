"""What macros, lists, exceptions and overrides make of conditions: as the real Falco puts it.

Falco tells each rule's condition as it compiles it, with all names put in. So what the compiler,
the lints, proofs and costs take a rule for can be held against what a host judges by.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sib_server.detection.rules.collect import Origin, SourceFile, collect
from sib_server.detection.rules.conditions import (
    And,
    Comparison,
    Condition,
    Not,
    Or,
    Value,
    Values,
)
from sib_server.detection.rules.effective import full_condition
from sib_server.detection.rules.emit import item_document, rules_file
from sib_server.detection.rules.findings import Finding, Severity
from sib_server.detection.rules.lints import lint
from sib_server.detection.rules.parsing import parse
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.resolving import Resolver
from tests.support.components import component

COUNT = int(os.environ.get("SIB_FALCO_SETS", "40"))
JUDGED = {"reading", "not-defined", "exceptions", "condition", "unknown-name"}
"""Lints that find what Falco refuses."""


def as_falco(*files: Path) -> dict[str, tuple[str, bool]] | None:
    """Each rule's condition and whether it is enabled; ``None`` where Falco refuses the files."""
    asked = [str(component("falco", "falco")), "-c", str(component("falco", "falco.yaml"))]
    words = [word for file in files for word in ("-r", str(file))]
    done = subprocess.run(
        [*asked, "-L", "-o", "json_output=true", *words],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    start = done.stdout.find(b'{"')
    if done.returncode != 0 or start < 0:
        return None
    told, _ = json.JSONDecoder().raw_decode(done.stdout[start:].decode())
    return {
        rule["info"]["name"]: (rule["details"]["condition_compiled"], rule["info"]["enabled"])
        for rule in told["rules"]
    }


def as_sib(*texts: str) -> tuple[dict[str, tuple[Condition, bool]], list[Finding], bytes]:
    """The same, what is an error about it, and what hosts are given."""
    files, findings = [], []
    for number, text in enumerate(texts):
        items, wrong = read_items(str(number), text.encode())
        files.append(SourceFile(str(number), Origin.OWN, str(number), tuple(items)))
        findings += wrong
    rules, wrong = collect(files)
    findings += [*wrong, *lint(files, rules, (), falco_known=True)]
    errors = [one for one in findings if one.severity is Severity.ERROR and one.lint in JUDGED]
    if errors:
        return {}, errors, b""
    resolver = Resolver(rules)
    made = {
        rule.name: (resolver.resolved(parse(full_condition(rule))), rule.enabled)
        for rule in rules.rules.values()
    }
    documents = [item_document(item) for file in files for item in file.items]
    return made, [], rules_file("test", documents)


def plain(condition: Condition) -> Condition:
    """Without what Falco does not tell: which values were written in quotes."""
    if isinstance(condition, Not):
        part = plain(condition.part)
        return part.part if isinstance(part, Not) else Not(part)
    if isinstance(condition, And | Or):
        return type(condition)(tuple(map(plain, condition.parts)))
    if isinstance(condition, Comparison) and isinstance(condition.right, Values):
        items = tuple(replace(one, quoted=False) for one in condition.right.items)
        return replace(condition, right=Values(items))
    if isinstance(condition, Comparison) and isinstance(condition.right, Value):
        return replace(condition, right=replace(condition.right, quoted=False))
    return condition


@dataclass
class Author:
    """Writes rules files, most of them such as Falco takes.

    Attributes:
        chance: what it draws from.
        careless: also names what is defined later, and compares with lists by `=`.
    """

    chance: random.Random
    careless: bool
    lists: list[str] = field(default_factory=list)
    macros: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def value(self) -> str:
        return self.chance.choice(["a", "b", "7", '"c d"', "'e f'", '"g\\"h"', "/i/j", *self.lists])

    def values(self) -> str:
        return f"({', '.join(self.value() for _ in range(self.chance.randint(1, 3)))})"

    def check(self) -> str:
        name = self.chance.choice(["proc.name", "fd.name", "proc.aname[2]", "tolower(proc.pname)"])
        equal = self.chance.choice(["a", '"b c"', *(self.lists if self.careless else [])])
        right = [
            f"in {self.values()}",
            f"pmatch {self.values()}",
            f"= {equal}",
            f"!= {equal}",
            "contains x",
            "startswith oneof (/a, /b)",
            "exists",
            *(["= val(proc.exepath)"] if name == "proc.name" else []),
        ]
        return f"{name} {self.chance.choice(right)}"

    def condition(self, depth: int = 2, below: str = "z") -> str:
        macros = [name for name in self.macros if name < below]
        kinds = ["check", "check", *(["macro"] * 2 if macros else [])]
        kind = self.chance.choice([*kinds, *(["and", "or", "not", "brackets"] if depth else [])])
        if kind == "check":
            return self.check()
        if kind == "macro":
            return self.chance.choice(macros)
        inner = self.condition(depth - 1, below)
        if kind == "not":
            return f"not ({inner})"
        return (
            f"({inner})"
            if kind == "brackets"
            else f"{inner} {kind} {self.condition(depth - 1, below)}"
        )

    def exception(self, number: int, *, known: bool) -> dict[str, Any]:
        chance = self.chance
        name = f"e{number}"
        plain_value = chance.choice(["a", '"b c"', *self.lists])
        if number == 0:
            head: dict[str, Any] = {} if known else {"fields": "proc.name"}
            if not known and chance.random() < 0.5:
                head["comps"] = chance.choice(["in", "pmatch", "startswith oneof"])
            return {"name": name, **head, "values": [plain_value, "z"][: chance.randint(1, 2)]}
        head = {} if known else {"fields": ["proc.name", "fd.name"], "comps": ["in", "contains"]}
        inner = chance.choice([["a", "b c"], [plain_value, "d e"], plain_value])
        return {"name": name, **head, "values": [[inner, chance.choice(["/a b", '"/c"', "/d"])]]}

    def item(self) -> dict[str, Any]:
        chance = self.chance
        kind = chance.choice(["list", "list", "macro", "macro", "rule", "rule", "change", "change"])
        name = f"{kind[0]}{chance.randint(0, 9)}"
        if kind == "list":
            others = [f"l{chance.randint(0, 9)}"] if self.careless else self.lists
            items = chance.choices(["p", "q", "r s", '"t u"', 5, *others, *others], k=3)
            self.lists = sorted({*self.lists, name})
            return {"list": name, "items": items[: chance.randint(0, 3)]}
        if kind == "macro":
            if self.careless:
                self.macros = sorted({*self.macros, f"m{chance.randint(0, 9)}"})
            # Named in one direction, so that few name themselves.
            found = {"macro": name, "condition": self.condition(below=name)}
            self.macros = sorted({*self.macros, name})
            return found
        if kind == "rule" or not (self.rules and self.lists and self.macros):
            name = f"r{chance.randint(0, 9)}"
            exceptions = [self.exception(number, known=False) for number in range(2)]
            self.rules = sorted({*self.rules, name})
            return {
                "rule": name, "desc": "d", "output": "o", "priority": "NOTICE",
                "condition": f"evt.type = open and ({self.condition()})",
                "exceptions": exceptions[: chance.randint(0, 2)],
                **({"enabled": False} if chance.random() < 0.2 else {}),
            }  # fmt: skip
        return self.change()

    def change(self) -> dict[str, Any]:
        chance = self.chance
        word = chance.choice(["and", "or"])
        rule, macro, lst = map(chance.choice, (self.rules, self.macros, self.lists))
        more = f"{word} {self.condition(below=macro)}"
        found: list[dict[str, Any]] = [
            {"rule": rule, "condition": more, "override": {"condition": "append"}},
            {"rule": rule, "condition": more, "append": True},
            {"rule": rule, "condition": self.condition(), "override": {"condition": "replace"}},
            {"rule": rule, "enabled": False},
            {"rule": rule, "enabled": True, "override": {"enabled": "replace"}},
            {
                "rule": rule,
                "exceptions": [self.exception(0, known=False)],
                "override": {"exceptions": "replace"},
            },
            {
                "rule": rule,
                "exceptions": [self.exception(chance.randint(0, 1), known=True)],
                "override": {"exceptions": "append"},
            },
            {"macro": macro, "condition": more, "override": {"condition": "append"}},
            {"macro": macro, "condition": more, "append": True},
            {"list": lst, "items": ["new", *self.lists[:1]], "override": {"items": "append"}},
            {"list": lst, "items": ["other"], "override": {"items": "replace"}},
        ]
        return chance.choice(found)


def same(sib: dict[str, tuple[Condition, bool]], falco: dict[str, tuple[str, bool]]) -> bool:
    return {name: (plain(one), enabled) for name, (one, enabled) in sib.items()} == {
        name: (plain(parse(text)), enabled) for name, (text, enabled) in falco.items()
    }


def test_names_are_put_in_as_by_falco(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for number in range(COUNT):
        author = Author(random.Random(number), careless=number % 4 == 0)
        texts = [json.dumps([author.item() for _ in range(15)]) for _ in range(2)]
        files = [tmp_path / f"{place}.yaml" for place in range(2)]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        falco = as_falco(*files)
        sib, errors, given = as_sib(*texts)
        seen[f"{'refused' if falco is None else 'taken'}, {len(errors) > 0}"] += 1
        if errors:
            continue
        # What hosts are given they take, and judge by it as the compiler thinks.
        (tmp_path / "given.yaml").write_bytes(given)
        taken = as_falco(tmp_path / "given.yaml")
        assert taken is not None, (number, texts)
        assert same(sib, taken), (number, texts)
        assert falco is None or same(sib, falco), (number, texts)
    print(seen)
    assert seen["taken, False"] > COUNT / 3
    assert seen["refused, True"] > 3
    # Falco refuses exceptions that an override replaces, where they name no operators.
    assert seen["taken, True"] + seen["refused, False"] < COUNT / 3
