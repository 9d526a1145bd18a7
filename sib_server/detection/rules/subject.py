"""What lints look at: all rules, read once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.effective import full_condition
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.resolving import ResolveError, Resolver, UnknownMacroError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sib_server.detection.attack.matrix import Matrix, Technique
    from sib_server.detection.rules.collect import Macro, Rule, RuleSet, SourceFile
    from sib_server.detection.rules.conditions import Condition
    from sib_server.detection.rules.engine import EngineFacts
    from sib_server.detection.rules.sidecars import Sidecar


@dataclass(frozen=True, slots=True)
class Read:
    """A condition as it was read.

    Attributes:
        condition: ``None`` where it could not be.
        resolved: with macros and lists; ``None`` where that could not be done.
        problem: why not.
        unresolved: the problem is what a name stands for.
        unknown: it is a macro that is not known here.
    """

    condition: Condition | None
    resolved: Condition | None
    problem: str | None = None
    unresolved: bool = False
    unknown: bool = False


@dataclass(frozen=True)
class Subject:
    """All that a lint may ask.

    Attributes:
        files: all that were read, in order.
        rules: put together, with tunings.
        sidecars: all entries of drill files.
        falco_known: the Falco project's rules are among the files.
        facts: of the engine that hosts run.
        matrix: ATT&CK.
    """

    files: Sequence[SourceFile]
    rules: RuleSet
    sidecars: Sequence[Sidecar]
    falco_known: bool
    facts: EngineFacts
    matrix: Matrix

    def judged(self, *origins: Origin) -> Iterator[Rule]:
        """The rules of some origins; of all but the Falco project's where none is named.

        What the project's rules are like is the project's business.
        """
        for rule in self.rules.rules.values():
            if rule.origin in origins or (not origins and rule.origin is not Origin.FALCO):
                yield rule

    def judged_macros(self) -> Iterator[Macro]:
        """Macros that are not the Falco project's."""
        return (one for one in self.rules.macros.values() if one.origin is not Origin.FALCO)

    @cached_property
    def techniques(self) -> Mapping[str, Technique]:
        """ATT&CK's techniques by id."""
        return self.matrix.by_id()

    @cached_property
    def drilled(self) -> Mapping[str, Sidecar]:
        """What stands beside rules that have a drill, by their names."""
        return {sidecar.rule: sidecar for sidecar in self.sidecars}

    @cached_property
    def read_rules(self) -> Mapping[str, Read]:
        """The conditions of all rules, exceptions included."""
        resolver = Resolver(self.rules)
        return {
            name: _read(full_condition(rule), resolver) for name, rule in self.rules.rules.items()
        }

    @cached_property
    def read_macros(self) -> Mapping[str, Read]:
        """The conditions of all macros."""
        resolver = Resolver(self.rules)
        return {
            name: _read(macro.condition.value, resolver, macro)
            for name, macro in self.rules.macros.items()
        }


def _read(text: str, resolver: Resolver, by: Macro | None = None) -> Read:
    try:
        condition = parse(text)
    except ConditionError as error:
        return Read(None, None, str(error))
    try:
        return Read(condition, resolver.resolved(condition, by))
    except ResolveError as error:
        unknown = isinstance(error, UnknownMacroError)
        return Read(condition, None, str(error), unresolved=True, unknown=unknown)
