"""From Sigma files to Falco rules and Loki alerts: where each rule goes, and why one does not.

This is what `sib-server sigma` runs. It needs no server, no settings and no network: nothing here
touches pySigma's validators, whose ATT&CK data would be downloaded and cached as pickles.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sigma.collection import SigmaCollection
from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaRuleLocation
from sigma.filters import SigmaFilter
from sigma.rule import SigmaRule

from sib_server.detection.sigma.collection import RuleFile, parse
from sib_server.detection.sigma.correlation import Search, correlation_query, event_search
from sib_server.detection.sigma.errors import RuleRefusedError
from sib_server.detection.sigma.falco import FalcoBackend
from sib_server.detection.sigma.falco_rule import sigma_tags
from sib_server.detection.sigma.logql import SibLogQLBackend
from sib_server.detection.sigma.pipelines import (
    AUDITD,
    FALCO_CATEGORIES,
    VIEWS,
    detection_items,
    linux_pipeline,
    views_of,
)
from sib_server.detection.sigma.ruler import build_alert, count_expression
from sib_server.detection.sigma.special_fields import Absent
from sib_server.detection.sigma.streams import SERVICE_RECORDS, Stream, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sigma.correlations import SigmaRuleReference

    from sib_server.detection.sigma.views import View

_NAMESPACE: Final = uuid.UUID("6f0e3f0c-6c5f-5e0e-9d0a-5b1f0b7c6a51")
"""For rules without an id: theirs is made from the title, so that re-import still updates."""


class Target(Enum):
    """Where a rule goes."""

    FALCO = "falco"
    LOGQL = "logql"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of one rule.

    Attributes:
        id: the Sigma id; one made from the title where the rule has none; empty where the file
        could
            not be read as a rule.
        title: the rule's title.
        path: a file, or ``archive.zip!member``.
        target: where it goes.
        output: the whole Falco rule (with its lists) or ruler group, as YAML; empty for ``none``.
        reason: why it goes nowhere, or ``None``.
        documents: :attr:`output` as data: items of a Falco rules file, or ruler groups.
        source: the file's text.
        silent: only correlations use it; it raises no alert of its own.
    """

    id: str
    title: str
    path: str
    target: Target
    output: str = ""
    reason: str | None = None
    documents: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    silent: bool = False

    def row(self) -> dict[str, str | None]:
        """The line of ``convert --json``."""
        return {
            "id": self.id,
            "title": self.title,
            "path": self.path,
            "target": self.target.value,
            "output": self.output,
            "reason": self.reason,
        }


def convert_files(
    files: Iterable[RuleFile | RuleRefusedError],
    placeholders: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[Conversion]:
    """Convert rules; correlations may refer to rules of other files.

    Args:
        files: as :func:`~sib_server.detection.sigma.collection.read_files` gives them.
        placeholders: values for ``|expand``: name -> values.

    Returns:
        One conversion a rule, in the order of the files.
    """
    run = _Run(placeholders)
    for file in files:
        if isinstance(file, RuleRefusedError):
            run.refuse(file.path, "", "", file.reason)
        else:
            run.read(file)
    return run.finish()


def rule_id(rule: SigmaRule | SigmaCorrelationRule | SigmaFilter) -> str:
    """The Sigma id, or one made from the title."""
    return str(rule.id or uuid.uuid5(_NAMESPACE, str(rule.title)))


@dataclass
class _Run:
    placeholders: Mapping[str, Sequence[str]]
    done: dict[int, Conversion] = field(default_factory=dict)
    rules: list[tuple[int, SigmaRule, RuleFile]] = field(default_factory=list)
    correlations: list[tuple[int, SigmaCorrelationRule, RuleFile]] = field(default_factory=list)
    searches: dict[str, Search] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    count: int = 0

    def __post_init__(self) -> None:
        values = {name: list(given) for name, given in self.placeholders.items()}
        self.falco = FalcoBackend(linux_pipeline(values))

    def place(self) -> int:
        self.count += 1
        return self.count

    def refuse(self, path: str, identity: str, title: str, reason: str, source: str = "") -> None:
        refused = Conversion(identity, title, path, Target.NONE, reason=reason, source=source)
        self.done[self.place()] = refused

    def read(self, file: RuleFile) -> None:
        try:
            found = SigmaCollection.from_dicts(
                parse(file),
                collect_errors=True,
                source=SigmaRuleLocation(Path(file.path)),
                collect_filters=True,
                resolve_references=False,
            )
        except RuleRefusedError as error:
            self.refuse(file.path, "", "", error.reason, file.text)
            return
        except Exception as error:  # noqa: BLE001  (whatever pySigma's code ran into)
            self.refuse(file.path, "", "", f"not a Sigma rule: {_reason(error)}", file.text)
            return
        for rule in [*found.rules, *found.filters]:
            self._take(rule, file)
        if not found.rules and not found.filters:
            reasons = "; ".join(map(_reason, found.errors)) or "no rule in the file"
            self.refuse(file.path, "", "", reasons, file.text)

    def _take(self, rule: Any, file: RuleFile) -> None:
        errors = "; ".join(dict.fromkeys(_reason(error) for error in rule.errors))
        if errors:
            self.refuse(file.path, rule_id(rule), str(rule.title), errors, file.text)
        elif isinstance(rule, SigmaFilter):
            reason = (
                "a Sigma filter changes other rules; add the exception to the Falco rule instead"
            )
            self.refuse(file.path, rule_id(rule), str(rule.title), reason, file.text)
        elif isinstance(rule, SigmaCorrelationRule):
            self.correlations.append((self.place(), rule, file))
            if not rule.generate:
                names = (reference.reference for reference in rule.rules or ())
                # pySigma keeps whatever stands there; what is no name refers to nothing.
                self.used.update(name for name in names if isinstance(name, str))
        else:
            self.rules.append((self.place(), rule, file))

    def finish(self) -> list[Conversion]:
        for place, rule, file in self.rules:
            self.done[place] = self._guarded(rule, file, self._rule)
        for place, correlation, file in self.correlations:
            self.done[place] = self._guarded(correlation, file, self._correlation)
        return [self.done[place] for place in sorted(self.done)]

    def _guarded(self, rule: Any, file: RuleFile, convert: Any) -> Conversion:
        identity, title = rule_id(rule), str(rule.title)
        try:
            made: Conversion = convert(rule, file)
        except RecursionError:
            reason = "the condition is nested too deep"
        except Exception as error:  # noqa: BLE001  (one rule never ends the others)
            reason = _reason(error)
        else:
            return made
        return Conversion(identity, title, file.path, Target.NONE, reason=reason, source=file.text)

    def _rule(self, rule: SigmaRule, file: RuleFile) -> Conversion:
        stream = log_stream(rule)
        if stream is not None:
            return self._to_logql(rule, file, stream)
        source = rule.logsource
        named = ", ".join(
            f"{kind} {value}"
            for kind in ("product", "category", "service")
            if (value := getattr(source, kind)) is not None
        )
        if not _falco_sees(rule):
            raise ValueError(f"SIB's hosts have no log source {named or 'without a name'}")
        (built,) = self.falco.convert_rule(rule, "rules")
        views, _ = views_of(str(self.falco.last_processing_pipeline.state[VIEWS]), rule)
        found = event_search(built.name, rule.id, printed_fields(views, built.output))
        self._publish(rule, found)
        return Conversion(
            rule_id(rule),
            rule.title,
            file.path,
            Target.FALCO,
            output=built.yaml(),
            documents=tuple(built.documents()),
            source=file.text,
        )

    def _publish(self, rule: SigmaRule, search: Search) -> None:
        for name in (rule.name, str(rule.id) if rule.id else None):
            if name is not None:
                self.searches[name] = search

    def _to_logql(self, rule: SigmaRule, file: RuleFile, stream: Stream) -> Conversion:
        backend = SibLogQLBackend(stream, self.placeholders)
        tags = sigma_tags(rule)
        queries = [str(query) for query in backend.convert_rule(rule, "default")]
        self._publish(rule, Search(tuple(queries), dict(stream.fields)))
        alert = build_alert(rule, rule_id(rule), count_expression(queries), tags)
        return Conversion(
            rule_id(rule),
            rule.title,
            file.path,
            Target.LOGQL,
            output=alert.yaml(),
            documents=(alert.group(),),
            source=file.text,
            silent=bool({rule.name, str(rule.id)} & self.used),
        )

    def _correlation(self, rule: SigmaCorrelationRule, file: RuleFile) -> Conversion:
        searches: dict[SigmaRuleReference, Search] = {}
        for reference in rule.rules or ():
            search = self.searches.get(reference.reference)
            if search is None:
                raise ValueError(
                    f"the correlation refers to {reference.reference!r}, "
                    "which is not among the rules or could not be converted"
                )
            searches[reference] = search
        expression = correlation_query(rule, searches)
        alert = build_alert(rule, rule_id(rule), expression, sigma_tags(rule))
        return Conversion(
            rule_id(rule),
            rule.title,
            file.path,
            Target.LOGQL,
            output=alert.yaml(),
            documents=(alert.group(),),
            source=file.text,
        )


def printed_fields(views: Iterable[View], output: str) -> dict[str, str]:
    """Sigma field -> the Falco field that each of a rule's events has for it.

    A field that is another one in each view, or that the output does not print, is left out: an
    event without it would silently not be counted.
    """
    printed = set(re.findall(r"%([a-z._]+(?:\[\d+\])?)", output))
    shown: dict[str, set[str | None]] = {}
    for view in views:
        for name, field_ in view.fields.items():
            if not isinstance(field_, Absent):
                shown.setdefault(name, set()).add(field_.shown)
    return {
        name: only
        for name, fields in shown.items()
        if len(fields) == 1 and (only := next(iter(fields))) in printed and only is not None
    }


def log_stream(rule: SigmaRule) -> Stream | None:
    """The log stream of a rule that is judged by its log lines."""
    source = rule.logsource
    if source.service == AUDITD:
        items = list(detection_items(rule))
        records = {str(v).upper() for item in items if item.field == "type" for v in item.value}
        named = any(item.field == "unit" for item in items)
        return SERVICE_RECORDS.get(next(iter(records))) if named and len(records) == 1 else None
    if source.category in FALCO_CATEGORIES:
        return None
    return stream_of(source.product, source.category, source.service)


def _falco_sees(rule: SigmaRule) -> bool:
    source = rule.logsource
    return source.product == "linux" and (
        source.category in FALCO_CATEGORIES or source.service == AUDITD
    )


def _reason(error: BaseException) -> str:
    """The error's sentence, without the place that the row names anyway."""
    text = str(error.args[0]) if error.args else str(error)
    # pySigma shows values by where they are in memory; a reason is the same at each conversion.
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return " ".join(text.split()) or type(error).__name__
