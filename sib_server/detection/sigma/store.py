"""Imported Sigma rules: one file a rule, keyed by the Sigma id, and what is made of them all.

::

    DIRECTORY/rules/<sigma id>.json     source, converted output, target
    DIRECTORY/falco/sigma.yaml          Falco rules for the next bundle
    DIRECTORY/ruler/sigma.yaml          rule groups for Loki's ruler

The two documents are functions of the rules (:func:`falco_document`, :func:`ruler_groups_document`)
and are written anew after every change; a crash between the two leaves old documents, which the
next change or :meth:`SigmaStore.publish` puts right.
"""

from __future__ import annotations

import difflib
import fcntl
import os
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sib_protocol.errors import UNDECODABLE, FileAccessError
from sib_protocol.files import sync_directory, write_atomic
from sib_server.detection.dumping import dump_yaml
from sib_server.detection.sigma.convert import Conversion, Target
from sib_server.detection.sigma.errors import UnknownRuleError
from sib_server.detection.sigma.falco_rule import ENGINE
from sib_server.detection.sigma.layout import falco_file
from sib_server.detection.sigma.ruler import ruler_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_FORMAT: Final = 1


class StoredRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One imported rule.

    ``documents`` are items of a Falco rules file, or ruler groups; ``target`` says which.
    """

    format: int = _FORMAT
    id: str
    title: str
    path: str
    target: Target
    output: str
    reason: str | None = None
    documents: list[dict[str, Any]] = []
    source: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What an import would do, or did, to one rule.

    Attributes:
        kind: ``added``, ``changed`` or ``removed``.
        old_target: before; ``None`` where it was not there.
        new_target: after; ``None`` where it is gone.
        difference: unified diff of the converted output, lines without newlines.
    """

    kind: str
    id: str
    title: str
    old_target: Target | None
    new_target: Target | None
    difference: tuple[str, ...] = ()


def stored(conversion: Conversion) -> StoredRule:
    """A conversion as it is kept."""
    return StoredRule(
        id=conversion.id,
        title=conversion.title,
        path=conversion.path,
        target=conversion.target,
        output=conversion.output,
        reason=conversion.reason,
        documents=[dict(document) for document in conversion.documents],
        source=conversion.source,
        silent=conversion.silent,
    )


def changes(
    old: Mapping[str, StoredRule], new: Iterable[Conversion], *, complete: bool = False
) -> list[Change]:
    """What an import of these conversions changes.

    Args:
        old: the rules that are there, by id.
        new: conversions; those without an id are left out.
        complete: the new ones are all there is, so that others are removed.
    """
    found: list[Change] = []
    seen: set[str] = set()
    for conversion in new:
        if not conversion.id:
            continue
        seen.add(conversion.id)
        before = old.get(conversion.id)
        if before is None:
            found.append(Change("added", conversion.id, conversion.title, None, conversion.target))
            continue
        same = (before.output, before.target, before.title, before.reason)
        if same != (conversion.output, conversion.target, conversion.title, conversion.reason):
            lines = difflib.unified_diff(
                before.output.splitlines(), conversion.output.splitlines(), lineterm="", n=1
            )
            found.append(
                Change(
                    "changed",
                    conversion.id,
                    conversion.title,
                    before.target,
                    conversion.target,
                    tuple(lines),
                )
            )
    if complete:
        gone = sorted(old.keys() - seen)
        found += [Change("removed", key, old[key].title, old[key].target, None) for key in gone]
    return found


def falco_document(rules: Iterable[StoredRule]) -> str:
    """The Falco rules file for the next bundle: every rule that goes to Falco, by id."""
    items: list[dict[str, Any]] = [{"required_engine_version": ENGINE}]
    names: set[str] = set()
    for rule in sorted(rules, key=lambda rule: rule.id):
        if rule.target is not Target.FALCO:
            continue
        for document in rule.documents:
            name = document.get("rule")
            if name in names:
                # Falco takes a second rule of one name for a replacement of the first.
                document = {**document, "rule": f"{name} ({rule.id})"}  # noqa: PLW2901 - a copy
            if name is not None:
                names.add(str(document["rule"]))
            items.append(document)
    return dump_yaml(items)


def alerting_on_logs(rules: Iterable[StoredRule]) -> list[StoredRule]:
    """Those that go to LogQL and alert on their own, by id."""
    found = (rule for rule in rules if rule.target is Target.LOGQL and not rule.silent)
    return sorted(found, key=lambda rule: rule.id)


def ruler_groups_document(rules: Iterable[StoredRule]) -> str:
    """The file for Loki's ruler."""
    return ruler_document(group for rule in alerting_on_logs(rules) for group in rule.documents)


class SigmaStore:
    """The directory of imported rules. One process at a time changes it; readers need no lock.

    Args:
        directory: made where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rules = directory / "rules"
        self.falco_file = falco_file(directory)
        self.ruler_file = directory / "ruler" / "sigma.yaml"

    def load(self) -> dict[str, StoredRule]:
        """All imported rules by id.

        Raises:
            FileAccessError: a file that cannot be read or was damaged.
        """
        if not self.rules.is_dir():
            return {}
        found = {}
        for path in sorted(self.rules.glob("*.json")):
            try:
                rule = msgspec.json.decode(path.read_bytes(), type=StoredRule)
            except (OSError, *UNDECODABLE) as error:
                raise FileAccessError(path, str(error), "import the rules again") from error
            found[rule.id] = rule
        return found

    def put(self, conversions: Iterable[Conversion]) -> list[Change]:
        """Add rules, or update those whose id is there; refused ones are kept with their reason.

        A rule that was converted before and is refused now keeps nothing of its old output.
        """
        given = [conversion for conversion in conversions if conversion.id]
        with self._locked():
            old = self.load()
            found = changes(old, given)
            touched = {change.id for change in found}
            for conversion in given:
                if conversion.id in touched:
                    content = msgspec.json.encode(stored(conversion))
                    write_atomic(self._path(conversion.id), content)
            self._publish(self.load())
        return found

    def remove(self, ids: Iterable[str]) -> list[Change]:
        """Take rules out.

        Raises:
            UnknownRuleError: an id that is not there; nothing is removed.
        """
        wanted = list(dict.fromkeys(ids))
        with self._locked():
            old = self.load()
            for rule_id in wanted:
                if rule_id not in old:
                    raise UnknownRuleError(rule_id)
            for rule_id in wanted:
                self._path(rule_id).unlink()
            sync_directory(self.rules)
            self._publish({key: rule for key, rule in old.items() if key not in wanted})
        return [Change("removed", key, old[key].title, old[key].target, None) for key in wanted]

    def publish(self) -> None:
        """Write the two documents anew from the rules."""
        with self._locked():
            self._publish(self.load())

    def _publish(self, rules: Mapping[str, StoredRule]) -> None:
        write_atomic(self.falco_file, falco_document(rules.values()).encode())
        write_atomic(self.ruler_file, ruler_groups_document(rules.values()).encode())

    def _path(self, rule_id: str) -> Path:
        # A Sigma id comes from a file that is not trusted: only a UUID becomes a file name.
        return self.rules / f"{uuid.UUID(rule_id)}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            for folder in (self.rules, self.falco_file.parent, self.ruler_file.parent):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor = os.open(
                self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
            )
        except OSError as error:
            raise FileAccessError(self.directory, error.strerror or str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
