"""The independent reference: each rule through pySigma's SQLite backend, over the events."""

from __future__ import annotations

import copy
import re
import sqlite3
import warnings
from typing import Any

from sigma.backends.sqlite.sqlite import sqliteBackend
from sigma.collection import SigmaCollection

from tests.sigma_proof.generate import KEYWORDS

_NUMBERS = {"DestinationPort", "sc-status", "sc-bytes"}
"""Fields that are compared as numbers."""


def _with_field(item: Any) -> Any:
    """Keywords as comparisons with the field ``raw``: the SQLite backend has no full text."""
    if isinstance(item, list) and any(not isinstance(one, dict) for one in item):
        return {f"{KEYWORDS}|contains": [str(one) for one in item]}
    if isinstance(item, dict):
        return {_named(key): value for key, value in item.items()}
    return item


def _named(key: str) -> str:
    if not key.startswith("|"):
        return key
    anywhere = "" if "|re" in key or "|contains" in key else "|contains"
    first, _, rest = key[1:].partition("|")
    # Values become encodings first; that they are contained is said of those.
    names = [first, *rest.split("|")] if rest else [first]
    before = [name for name in names if name not in {"all", "contains"}]
    after = [name for name in names if name == "all"]
    contains = ["contains"] if anywhere or "contains" in names else []
    return "|".join([KEYWORDS, *before, *contains, *after])


def sqlite_judge(document: dict[str, Any], events: list[dict[str, str]]) -> list[bool]:
    """Judge events by a rule's YAML document."""
    changed = copy.deepcopy(document)
    changed["detection"] = {
        name: item if name in {"condition", "timeframe"} else _with_field(item)
        for name, item in changed["detection"].items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rule = SigmaCollection.from_dicts([changed]).rules[0]
        backend = sqliteBackend()
        needed = set(backend.required_fields(rule))
        (query,) = backend.convert_rule(SigmaCollection.from_dicts([changed]).rules[0])
    names = sorted({name for event in events for name in event} | needed)
    base = sqlite3.connect(":memory:")
    base.create_function(
        "regexp", 2, lambda pattern, text: text is not None and re.search(pattern, text) is not None
    )
    columns = ", ".join(
        f"`{name}` {'NUMERIC' if name in _NUMBERS else 'TEXT'} COLLATE NOCASE" for name in names
    )
    base.execute(f"CREATE TABLE logs (sib_row INTEGER, {columns})")
    marks = ", ".join("?" * (len(names) + 1))
    base.executemany(
        f"INSERT INTO logs VALUES ({marks})",  # noqa: S608 - marks are question marks
        [(number, *(event.get(name) for name in names)) for number, event in enumerate(events)],
    )
    found = {row[0] for row in base.execute(query)}
    base.close()
    return [number in found for number in range(len(events))]
