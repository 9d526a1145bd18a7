"""Whether Loki's ruler evaluates what was imported for it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.checks import Finding, failed, well
from sib_protocol.errors import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

PATH: Final = "/prometheus/api/v1/rules"
"""Of Loki: where the ruler says which rules it has, and how they are."""
CHECK: Final = "sigma-logs"
_FAILING: Final = "err"
_MOST_TEXT: Final = 200


class _Rule(msgspec.Struct):
    name: str
    labels: dict[str, str] = {}
    health: str = ""
    lastError: str = ""  # noqa: N815  (Loki's word)


class _Group(msgspec.Struct):
    rules: list[_Rule]


class _Groups(msgspec.Struct):
    groups: list[_Group]


class _Answer(msgspec.Struct):
    data: _Groups


def judge_ruler(wanted: Collection[str], answer: bytes, file: Path) -> Finding:
    """What the ruler makes of the imported rules over logs.

    Args:
        wanted: their Sigma ids, at least one.
        answer: of the ruler, to a request for :data:`PATH`.
        file: where the server keeps the rules for it.
    """
    try:
        groups = msgspec.json.decode(answer, type=_Answer).data.groups
    except UNDECODABLE as error:
        return failed(CHECK, f"the ruler's answer cannot be read: {error}", "is it Loki's?")
    rules = {rule.labels.get("sigma_id", ""): rule for group in groups for rule in group.rules}
    missing = sorted(wanted - rules.keys())
    if missing:
        return failed(
            CHECK,
            f"Loki has not loaded {len(missing)} of {len(wanted)} imported rules over logs, such"
            f" as {missing[0]}",
            f"it looks every minute; see 'sib-server logs loki'. A Loki elsewhere needs {file}",
        )
    failing = [rules[one] for one in sorted(wanted) if rules[one].health == _FAILING]
    if failing:
        return failed(
            CHECK,
            f"Loki cannot evaluate {len(failing)} of {len(wanted)} imported rules over logs, such"
            f" as {failing[0].name[:_MOST_TEXT]!r}: {failing[0].lastError[:_MOST_TEXT]}",
            "see 'sib-server logs loki'; 'sib-server sigma remove ID' takes one out",
        )
    return well(CHECK, f"Loki evaluates all {len(wanted)} imported rules over logs")
