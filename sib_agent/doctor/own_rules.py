"""Which rules this host loads, and what in its own files does not do what it seems to do.

SIB's macros are put into the conditions of SIB's rules before hosts get them, so that Falco judges
them cheaply. A file of the host's own that changes such a macro is loaded without a complaint and
changes none of those rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_agent.bundles.engine import rule_files
from sib_protocol.bundles.names import FALCO_RULES, SIB_RULES
from sib_protocol.checks import Finding, skipped, warning, well
from sib_protocol.documents import DocumentError, Mapping, Scalar, Sequence, read_documents
from sib_protocol.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_agent.settings import FalcoSettings

_CHECK: Final = "rules"
_MAX_BYTES: Final = 1024 * 1024
_MAX_FILES: Final = 100
_MAX_SHOWN: Final = 10
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class UnreadError(Exception):
    """A file that could not be looked at; the message says why."""


@dataclass(frozen=True, slots=True)
class MacroChange:
    """A file of the host's own that gives one of SIB's macros another meaning.

    Attributes:
        file: it.
        line: where, from 1.
        name: of the macro.
    """

    file: Path
    line: int
    name: str


def items_of(content: bytes) -> Iterator[Mapping]:
    """The items of a rules file. Pure.

    Raises:
        UnreadError: not YAML, or more of it or deeper than rules are.
    """
    try:
        documents = read_documents(content)
    except DocumentError as error:
        raise UnreadError(str(error)) from error
    for document in documents:
        if isinstance(document, Sequence):
            yield from (item for item in document.items if isinstance(item, Mapping))


def _text(item: Mapping, key: str) -> str:
    found = item.entries.get(key)
    return found.text if isinstance(found, Scalar) else ""


def macros_put_in(content: bytes) -> frozenset[str]:
    """The macros of a file of SIB's rules that no rule in it names any more. Pure."""
    items = list(items_of(content))
    named = {
        word
        for item in items
        if "rule" in item.entries
        for word in _WORD.findall(_text(item, "condition"))
    }
    return frozenset(_text(item, "macro") for item in items) - named - {""}


def macro_changes(file: Path, content: bytes, put_in: frozenset[str]) -> list[MacroChange]:
    """Which of some macros a file of the host's own changes. Pure."""
    found = ((item.line, _text(item, "macro")) for item in items_of(content))
    return [MacroChange(file, line, name) for line, name in found if name in put_in]


def judge_change(change: MacroChange) -> Finding:
    """What to say of one."""
    return warning(
        _CHECK,
        f"{change.file}:{change.line} changes the macro {change.name}, and none of SIB's rules:"
        " it is put into their conditions already",
        "a list may be changed here; a rule is tuned on the server ('sib-server rules tune'), where"
        " the macro can be changed, too, in /etc/sib/rules.d",
    )


def look_at_rules(settings: FalcoSettings) -> list[Finding]:
    """What the host's own files change in vain; where nothing, what is loaded beside them."""
    bundle = sorted((settings.bundles / "current" / "rules").glob("*.yaml"))
    own = [file for place in settings.more_rules for file in rule_files(Path(place))]
    findings: list[Finding] = []
    changes: list[MacroChange] = []
    try:
        sibs = [file for file in bundle if own and SIB_RULES.fullmatch(file.name)]
        put_in = frozenset[str]().union(*(macros_put_in(_read(file)) for file in sibs))
    except UnreadError as error:
        return [skipped(_CHECK, f"the bundle in force cannot be looked at: {error}")]
    for file in own[:_MAX_FILES]:
        try:
            changes += macro_changes(file, _read(file), put_in)
        except UnreadError as error:
            findings.append(skipped(_CHECK, f"{file} cannot be looked at: {error}"))
    findings += map(judge_change, changes[:_MAX_SHOWN])
    if (more := len(changes) - _MAX_SHOWN) > 0:
        findings.append(warning(_CHECK, f"{more} more such changes", "as above"))
    if len(own) > _MAX_FILES:
        findings.append(skipped(_CHECK, f"only the first {_MAX_FILES} own files were looked at"))
    projects = any(FALCO_RULES.fullmatch(file.name) for file in bundle)
    return findings or [well(_CHECK, describe(len(bundle), len(own), settings, projects=projects))]


def describe(bundle: int, own: int, settings: FalcoSettings, *, projects: bool) -> str:
    """Which rules are loaded. Pure.

    Args:
        bundle: files of the bundle in force.
        own: files of the host's own.
        settings: Falco's.
        projects: whether the Falco project's rules are among the bundle's.
    """
    told = f"{bundle} files of the bundle in force, {own} of this host's own"
    if projects:
        told += "; the Falco project's rules are the bundle's"
        if not settings.stock_rules:
            told += ", which falco.stock_rules does not leave out"
    return told


def _read(file: Path) -> bytes:
    try:
        content = read_regular(file, _MAX_BYTES + 1)
    except OSError as error:
        raise UnreadError(error.strerror or str(error)) from error
    if len(content) > _MAX_BYTES:
        raise UnreadError(f"larger than {_MAX_BYTES} bytes")
    return content
