"""LogQL for rules about log lines: pySigma's Loki backend on SIB's streams.

What is added to the backend:

- a pipeline onto SIB's streams; a field that a stream does not have is refused (Loki would take it
  for empty);
- text becomes RE2 here: the backend's own translation takes an escaped ``\\*`` for a wildcard;
- ``|re`` finds its expression anywhere in a field; a label filter would match the whole value;
- comparisons with a number and with another field are made in a template (``label_format``): Loki's
  own comparison fails the whole query for one line whose value is no number, such as ``-``, and the
  backend's comparison of fields minds case and takes two absent fields for equal;
- keywords under ``or``, ``and`` and ``not`` become a chain of line filters where there is one (the
  backend alone writes ``not (a and b)`` as ``!~ "a|b"``, another condition); where there is none,
  the keywords are counted into labels (``label_format``), over which any condition can be said.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from sigma.backends.loki import LogQLBackend
from sigma.backends.loki.deferred import LogQLDeferredUnboundStrExpression
from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionItem,
    ConditionNOT,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.exceptions import SigmaFeatureNotSupportedByBackendError
from sigma.pipelines.loki import LokiCustomAttributes
from sigma.processing.conditions import IncludeFieldCondition
from sigma.processing.pipeline import ProcessingItem, ProcessingPipeline
from sigma.processing.transformations import (
    DropDetectionItemTransformation,
    FieldMappingTransformation,
)
from sigma.types import (
    CompareOperators,
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SigmaTimestampPart,
)

from sib_server.detection.sigma import regex
from sib_server.detection.sigma.pipelines import detection_items, placeholder_items
from sib_server.detection.sigma.text import Wild, expression_of, from_sigma

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sigma.rule import SigmaRule

    from sib_server.detection.sigma.streams import Stream

MAX_CLAUSES: Final = 256
"""A condition over keywords may grow to so many line filters."""
_NUMBER: Final = "^-?[0-9]{1,15}([.][0-9]{1,15})?$"
_OPERATORS: Final = {
    CompareOperators.LT: "lt",
    CompareOperators.LTE: "le",
    CompareOperators.GT: "gt",
    CompareOperators.GTE: "ge",
}
_REFERENCES: Final = {
    (False, False): "eq",
    (True, False): "hasPrefix",
    (False, True): "hasSuffix",
    (True, True): "contains",
}


class LogQLUnsupportedError(SigmaFeatureNotSupportedByBackendError):
    """Something that LogQL over SIB's streams cannot say with the same meaning."""


def stream_pipeline(
    stream: Stream, placeholders: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> ProcessingPipeline:
    """Map a rule's fields onto a stream's labels."""
    items = [
        *placeholder_items(placeholders),
        ProcessingItem(
            identifier="sib_record_type",
            transformation=DropDetectionItemTransformation(),
            field_name_conditions=[IncludeFieldCondition(fields=["type"])],
        ),
        ProcessingItem(
            identifier="sib_fields",
            transformation=FieldMappingTransformation(dict(stream.fields)),
        ),
    ]
    return ProcessingPipeline(
        name="SIB: log streams in Loki",
        priority=50,
        items=items,
        vars={name: list(values) for name, values in placeholders.items()},
    )


class SibLogQLBackend(LogQLBackend):
    """pySigma's Loki backend, for one of SIB's streams.

    Args:
        stream: where the rule's lines are.
        placeholders: values for ``|expand``.
    """

    def __init__(
        self, stream: Stream, placeholders: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        super().__init__(stream_pipeline(stream, placeholders))
        self.stream = stream
        self._inside = False
        self._labels: dict[str, str] = {}
        # pySigma looks for the expression when a backend is made, and this one has it from its
        # first conversion on: the first of a process could not say that a field is absent.
        type(self).explicit_not_exists_expression = True

    def convert_rule(self, rule: SigmaRule, *args: Any, **options: Any) -> list[Any]:
        """One rule as queries; a long one may become several, of which any may match.

        Raises:
            LogQLUnsupportedError: LogQL cannot say it.
        """
        known = {*dict(self.stream.fields), "type"} if self.stream.fields else set()
        for item in detection_items(rule):
            others = (one.field for one in item.value if isinstance(one, SigmaFieldReference))
            for name in (item.field, *others):
                if name is not None and name not in known:
                    raise LogQLUnsupportedError(f"log lines of this source have no field {name}")
        rule.custom_attributes[LokiCustomAttributes.LOGSOURCE_SELECTION.value] = (
            self.stream.selector
        )
        # The backend would rewrite each line to these fields, which a count has no use for.
        rule.fields = []
        self._rule, self._labels = rule, {}
        self._set_parser()
        return super().convert_rule(rule, *args, **options)

    def _set_parser(self) -> None:
        made = ", ".join(f"{label}=`{text}`" for text, label in self._labels.items())
        parts = [self.stream.parser, f"label_format {made}" if made else None]
        parser = " | ".join(filter(None, parts))
        # Where a condition is over keywords alone, the backend leaves the parser out.
        self._rule.custom_attributes[LokiCustomAttributes.PARSER.value] = parser or "logfmt"

    def update_parsed_conditions(self, condition: Any, negated: bool = False) -> Any:
        """Bring a condition into the backend's form; the outermost call sees the whole tree."""
        if self._inside:
            return super().update_parsed_conditions(condition, negated)
        self._inside = True
        try:
            exact = self._exact(condition)
            if _has_keyword(exact):
                exact = self._chain(exact, negated=negated)
            return super().update_parsed_conditions(exact)
        finally:
            self._inside = False

    def _chain(self, condition: Any, *, negated: bool) -> Any:
        try:
            clauses = _clauses(condition, negated=negated)
        except LogQLUnsupportedError:
            return self._counting(condition)
        if not all(_is_filter(literals) for literals in clauses):
            return self._counting(condition)
        source = getattr(condition, "source", None)
        parts = [_clause(literals, source) for literals in clauses]
        return parts[0] if len(parts) == 1 else ConditionAND(parts, source)

    def _counting(self, condition: Any) -> Any:
        """The same tree over labels: each holds how often a keyword is in the line."""
        if isinstance(condition, ConditionItem):
            args = [self._counting(arg) for arg in condition.args]
            return type(condition)(args, condition.source)
        if not isinstance(condition, ConditionValueExpression):
            return condition
        keyword = cast("SigmaRegularExpression", condition.value)
        quoted = str(keyword.regexp).replace("\\", "\\\\").replace('"', '\\"')
        quoted = quoted.replace("`", "\\x60")
        template = f'{{{{ __line__ | count "{quoted}" }}}}'
        more = SigmaCompareExpression(SigmaNumber(0), CompareOperators.GT)
        return ConditionFieldEqualsValueExpression(self._label(template), more)

    def _label(self, template: str) -> str:
        """The label that holds what a template gives for a line."""
        label = self._labels.setdefault(template, f"sigma_{len(self._labels)}")
        self._set_parser()
        return label

    def _exact(self, condition: Any) -> Any:
        """The tree with all text as RE2: the backend's own translation loses escaped wildcards."""
        if isinstance(condition, ConditionItem):
            args = [self._exact(arg) for arg in condition.args]
            return type(condition)(args, condition.source)
        value = condition.value
        anywhere = isinstance(condition, ConditionValueExpression)
        if isinstance(value, SigmaExpansion):
            leaves: list[Any] = [
                ConditionValueExpression(one)
                if anywhere
                else ConditionFieldEqualsValueExpression(condition.field, one)
                for one in value.values
            ]
            return self._exact(ConditionOR(leaves, getattr(condition, "source", None)))
        if isinstance(value, SigmaString):
            text = _text_re(value, anywhere=anywhere)
        elif isinstance(value, SigmaRegularExpression):
            text = _search_re(value, anywhere=anywhere)
        elif isinstance(value, SigmaTimestampPart):
            raise LogQLUnsupportedError("log lines have no part of a time to compare with")
        elif isinstance(value, SigmaNumber | SigmaBool):
            text = re.escape(str(value).lower())
        elif anywhere:
            raise LogQLUnsupportedError("a value without a field is no text")
        else:
            return self._compared(condition)
        if anywhere:
            return ConditionValueExpression(SigmaRegularExpression(text))
        return ConditionFieldEqualsValueExpression(condition.field, SigmaRegularExpression(text))

    def _compared(self, condition: Any) -> Any:
        field, value = condition.field, condition.value
        if isinstance(value, SigmaCompareExpression):
            operator = _OPERATORS.get(value.op)
            if operator is None or not isinstance(value.number, SigmaNumber):
                raise LogQLUnsupportedError(f"the comparison of {field} is not one with a number")
            number = float(value.number.number)
            there = f'eq (count "{_NUMBER}" .{field}) 1'
            test = f"{operator} (float64 .{field}) {number!r}"
        elif isinstance(value, SigmaFieldReference):
            there = f"and .{field} .{value.field}"
            operator = _REFERENCES[value.starts_with, value.ends_with]
            test = f"{operator} (lower .{value.field}) (lower .{field})"
        elif isinstance(value, SigmaNull | SigmaExists | SigmaCIDRExpression):
            return condition
        else:
            raise LogQLUnsupportedError(f"LogQL cannot say what {field} is compared with")
        label = self._label(f"{{{{ if {there} }}}}{{{{ if {test} }}}}1{{{{ end }}}}{{{{ end }}}}")
        return ConditionFieldEqualsValueExpression(label, SigmaRegularExpression("1"))

    def convert_condition_val_re(self, cond: Any, state: Any) -> Any:
        """A keyword, as a line filter."""
        expression = LogQLDeferredUnboundStrExpression(
            state, self.convert_value_re(cond.value, state), "|~"
        )
        if getattr(cond, "negated", False):
            expression.negate()
        return expression


def _has_keyword(condition: Any) -> bool:
    if isinstance(condition, ConditionItem):
        return any(_has_keyword(arg) for arg in condition.args)
    return isinstance(condition, ConditionValueExpression)


def _text_re(value: SigmaString, *, anywhere: bool) -> str:
    parts = list(from_sigma(value).parts)
    if anywhere:
        while parts and parts[0] is Wild.ANY:
            parts.pop(0)
        while parts and parts[-1] is Wild.ANY:
            parts.pop()
    shapes = {Wild.ANY: ".*", Wild.ONE: "."}
    shape = "".join(shapes[p] if isinstance(p, Wild) else _escape(p) for p in parts)
    flags = "s" if isinstance(value, SigmaCasedString) else "is"
    return f"(?{flags}:{shape})"


def _search_re(value: SigmaRegularExpression, *, anywhere: bool) -> str:
    letters = {"IGNORECASE": "i", "MULTILINE": "m", "DOTALL": "s"}
    flags = "".join(sorted(letters[flag.name] for flag in value.flags))
    body, read = regex.leading_flags(expression_of(value), regex.Flags())
    flags += "".join(
        letter
        for letter, given in (("i", read.ignore_case), ("m", read.multi_line), ("s", read.dot_all))
        if given and letter not in flags
    )
    inner = f"(?{flags}:{body})" if flags else f"(?:{body})"
    # A label filter in LogQL matches the whole value; Sigma looks for the expression anywhere.
    return inner if anywhere else f"(?s:.*){inner}(?s:.*)"


def _escape(text: str) -> str:
    return "".join(f"\\{char}" if char in r"\.+*?()|[]{}^$" else char for char in text)


_Literal = tuple[bool, Any]
_Clauses = list[tuple[_Literal, ...]]


def _is_filter(literals: tuple[_Literal, ...]) -> bool:
    """Whether LogQL has a filter for a clause: one literal, keywords that are there, or fields."""
    keywords = [isinstance(leaf, ConditionValueExpression) for _, leaf in literals]
    there = not any(negative for negative, _ in literals)
    return len(literals) == 1 or not any(keywords) or (all(keywords) and there)


def _clause(literals: tuple[_Literal, ...], source: Any) -> Any:
    if len(literals) > 1 and isinstance(literals[0][1], ConditionValueExpression):
        joined = "|".join(dict.fromkeys(str(leaf.value.regexp) for _, leaf in literals))
        return ConditionValueExpression(SigmaRegularExpression(joined))
    leaves = [ConditionNOT([leaf], source) if no else leaf for no, leaf in literals]
    return leaves[0] if len(leaves) == 1 else ConditionOR(leaves, source)


def _clauses(condition: Any, *, negated: bool) -> _Clauses:
    """Conjunctive normal form: all clauses hold, in each one of the (negated?, leaf) does."""
    if isinstance(condition, ConditionNOT):
        return _clauses(condition.args[0], negated=not negated)
    if isinstance(condition, ConditionAND | ConditionOR):
        parts = [_clauses(arg, negated=negated) for arg in condition.args]
        if isinstance(condition, ConditionAND) != negated:
            return _limited([clause for part in parts for clause in part])
        whole: _Clauses = [()]
        for part in parts:
            whole = _limited([left + right for left in whole for right in part])
        return whole
    return [((negated, condition),)]


def _limited(clauses: _Clauses) -> _Clauses:
    if len(clauses) > MAX_CLAUSES:
        raise LogQLUnsupportedError("the condition over keywords is too nested for LogQL")
    return clauses
