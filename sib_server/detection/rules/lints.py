"""All lints, as data. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sib_server.detection.attack.matrix import shipped
from sib_server.detection.rules import lint_conditions, lint_names, lint_quality
from sib_server.detection.rules.engine import shipped_facts
from sib_server.detection.rules.findings import ordered
from sib_server.detection.rules.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sib_server.detection.rules.collect import RuleSet, SourceFile
    from sib_server.detection.rules.findings import Finding
    from sib_server.detection.rules.sidecars import Sidecar


class Lint(NamedTuple):
    """One lint: a function over all rules. Its docstring says why it is there."""

    check: Callable[[Subject], Iterator[Finding]]

    @property
    def why(self) -> str:
        """Its reason, for people."""
        return (self.check.__doc__ or "").partition("\n")[0]


LINTS: Final = (
    Lint(lint_names.duplicate_ids),
    Lint(lint_names.drills_without_rules),
    Lint(lint_names.unused),
    Lint(lint_names.engine_versions),
    Lint(lint_conditions.read_conditions),
    Lint(lint_conditions.unknown_fields),
    Lint(lint_conditions.unknown_events),
    Lint(lint_conditions.misspelt_lists),
    Lint(lint_conditions.no_event_type),
    Lint(lint_conditions.expressions),
    Lint(lint_conditions.long_values),
    Lint(lint_conditions.list_items),
    Lint(lint_conditions.nested_lists),
    Lint(lint_conditions.exception_fields),
    Lint(lint_quality.attack),
    Lint(lint_quality.tags),
    Lint(lint_quality.outputs),
    Lint(lint_quality.priorities),
    Lint(lint_quality.drills),
    Lint(lint_quality.exceptions),
)


def lint(
    files: Sequence[SourceFile],
    rules: RuleSet,
    sidecars: Sequence[Sidecar],
    *,
    falco_known: bool,
) -> tuple[Finding, ...]:
    """What all lints find, ordered by file and line.

    Definitions that later ones replace are judged, too: who takes the later one away again must
    not be the first to learn of it.
    """

    def found(judged: RuleSet) -> Iterator[Finding]:
        subject = Subject(files, judged, sidecars, falco_known, shipped_facts(), shipped())
        for one in LINTS:
            yield from one.check(subject)

    findings = list(found(rules))
    for earlier, names in rules.earlier():
        findings += [finding for finding in found(earlier) if finding.rule in names]
    return ordered(findings)
