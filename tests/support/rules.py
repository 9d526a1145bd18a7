"""Folders of rules for tests of what is made of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from click.testing import CliRunner, Result

from sib_server import cli
from sib_server.detection.rules.compile import CompiledRules, compile_rules
from sib_server.detection.rules.conditions import And, Named, Not, Or
from sib_server.detection.rules.decisions import Switch, Tuning, with_switch, with_tuning
from sib_server.detection.rules.settings import DetectionSettings
from sib_server.detection.rules.store import change_decisions
from sib_server.settings import ServerSettings, SigmaSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sib_server.detection.rules.conditions import Check, Condition

AT = "2026-11-25T12:00:00Z"
FALCO = """
- list: stock_shells
  items: [bash, "my shell"]
- macro: stock_spawned
  condition: evt.type = execve
- macro: user_known
  condition: (never_named = 1 and evt.num = 0)
- rule: Stock shell
  desc: a shell
  condition: stock_spawned and proc.name in (stock_shells)
  output: shell %proc.name %user.name
  priority: NOTICE
  tags: [T1059]
  exceptions:
    - name: names
      fields: proc.pname
    - name: pairs
      fields: [proc.pname, user.name]
      comps: [in, =]
""".replace("never_named = 1 and ", "")
OURS = """
- macro: ours_macro
  condition: evt.type = open
- rule: Ours
  desc: opened
  condition: ours_macro and fd.name = /etc/shadow
  output: opened %fd.name %proc.name %user.name
  priority: WARNING
  tags: [mitre_credential_access, T1003.008]
  exceptions:
    - name: who
      fields: [proc.name, user.name]
"""
DRILLS = """
- id: own-rule-1
  rule: Ours
  false_positives: [none]
  drill: {run: cat /etc/shadow}
  quiet:
    - {name: a, run: "true"}
    - {name: b, run: "true"}
"""

SIGMA = """
title: Shadow read by cat
id: 11111111-2222-4333-8444-555555555555
status: test
description: Someone reads shadow.
author: Somebody
logsource: {category: process_creation, product: linux}
detection:
  selection: {Image|endswith: /cat, CommandLine|contains: shadow}
  condition: selection
level: high
tags: [attack.credential-access, attack.t1003.008]
"""


class Place:
    """Folders of rules, and a compiler for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("sib", "own", "falco"):
            (root / name).mkdir()
        self.write("sib/ours.yaml", OURS)
        self.write("sib/ours.drills.yaml", DRILLS)
        self.write("falco/falco_rules.yaml", FALCO)
        detection = DetectionSettings(
            own_rules=root / "own",
            shipped_rules=root / "sib",
            falco_rules=root / "falco",
            directory=root / "state",
        )
        plain = ServerSettings()
        self.settings = msgspec.structs.replace(
            plain,
            detection=detection,
            sigma=SigmaSettings(root / "sigma"),
            intel=msgspec.structs.replace(plain.intel, directory=root / "intel"),
        )

        self.config = root / "server.yaml"
        self.config.write_bytes(
            msgspec.yaml.encode(
                {
                    "detection": {
                        "own_rules": f"{root}/own",
                        "shipped_rules": f"{root}/sib",
                        "falco_rules": f"{root}/falco",
                        "directory": f"{root}/state",
                    },
                    "sigma": {"directory": f"{root}/sigma"},
                    "intel": {"directory": f"{root}/intel"},
                    "journal": {"path": f"{root}/journal.db"},
                }
            )
        )

    def run(self, *arguments: str, code: int = 0) -> Result:
        """`sib-server rules` with these arguments."""
        return self.sib("rules", *arguments, code=code)

    def sib(self, *arguments: str, code: int = 0) -> Result:
        """`sib-server` with these arguments."""
        result = CliRunner().invoke(cli.main, ["--config", str(self.config), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.run(*arguments, "--json").stdout.splitlines()]

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def compile(self) -> CompiledRules:
        return compile_rules(self.settings)

    def import_others(self) -> None:
        """A Sigma rule and some indicators."""
        self.write("sigma.yml", SIGMA)
        self.sib("sigma", "import", str(self.root / "sigma.yml"))
        self.write("bad.txt", "45.155.205.9\n45.155.200.0/24\nsome-bad-name.top\n")
        self.sib("intel", "import", str(self.root / "bad.txt"))

    def switch(self, value: str, *, enabled: bool, by: str = "name") -> None:
        switch = Switch(by=by, value=value, enabled=enabled, at=AT)  # type: ignore[arg-type]
        change_decisions(self.root / "state", lambda before: with_switch(before, switch))

    def tune(
        self, rule: str, exception: str, fields: tuple[str, ...], *values: str, adds: bool = False
    ) -> None:
        tuning = Tuning(
            id=f"t-{len(values)}", rule=rule, exception=exception, fields=fields,
            adds_exception=adds, values=values, event_id="x/1", at=AT,
        )  # fmt: skip
        change_decisions(self.root / "state", lambda before: with_tuning(before, tuning))


def judge(condition: Condition, check: Callable[[Check], bool]) -> bool:
    """What a condition without names comes to, by what each of its checks comes to."""
    if isinstance(condition, Not):
        return not judge(condition.part, check)
    if isinstance(condition, And):
        return all(judge(part, check) for part in condition.parts)
    if isinstance(condition, Or):
        return any(judge(part, check) for part in condition.parts)
    assert not isinstance(condition, Named)
    return check(condition)
