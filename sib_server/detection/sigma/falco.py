"""A pySigma backend for Falco.

Use it as any other backend::

    backend = FalcoBackend(linux_pipeline())
    backend.convert(SigmaCollection.from_yaml(text), "rules")

Output formats: ``default`` gives conditions, ``rules`` a rules file. Each rule's log source must
have
been named by a pipeline (:func:`sib_server.detection.sigma.pipelines.linux_pipeline`), which says
in which views of Falco's events it is read.

What it keeps, and at what price: a condition begins with the kind of event; values for one field
become one list, looked up in a hash where Falco has one; comparisons are without regard to case as
Sigma's are. What Falco cannot say is refused with :class:`FalcoUnsupportedError`, never left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from sigma.conditions import ConditionValueExpression
from sigma.conversion.base import Backend
from sigma.conversion.state import ConversionState
from sigma.exceptions import SigmaError
from sigma.types import (
    CompareOperators,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaRegularExpressionFlag,
    SigmaString,
)

from sib_server.detection.sigma.condition import (
    FALSE,
    TRUE,
    Node,
    all_of,
    any_of,
    negate,
)
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.falco_rule import FalcoRule, build_rule, rules_document
from sib_server.detection.sigma.pipelines import VIEWS, views_of
from sib_server.detection.sigma.regex import Flags
from sib_server.detection.sigma.text import Wild, expression_of, from_sigma, literal, pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sigma.conditions import (
        ConditionAND,
        ConditionFieldEqualsValueExpression,
        ConditionNOT,
        ConditionOR,
    )
    from sigma.correlations import SigmaCorrelationRule
    from sigma.processing.pipeline import ProcessingPipeline
    from sigma.rule import SigmaRule

    from sib_server.detection.sigma.fields import Field
    from sib_server.detection.sigma.views import View

_OPERATORS: Final = {
    CompareOperators.LT: "<",
    CompareOperators.LTE: "<=",
    CompareOperators.GT: ">",
    CompareOperators.GTE: ">=",
}
_VIEW: Final = "falco_view"


class FalcoBackend(Backend):
    """Sigma rules as Falco rules."""

    name: ClassVar[str] = "Falco"
    identifier: ClassVar[str] = "falco"
    formats: ClassVar[dict[str, str]] = {
        "default": "Falco conditions",
        "rules": "Falco rules file (YAML)",
    }
    requires_pipeline: ClassVar[bool] = True

    def __init__(
        self,
        processing_pipeline: ProcessingPipeline | None = None,
        collect_errors: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(processing_pipeline, collect_errors, **options)

    def convert_rule(
        self,
        rule: SigmaRule,
        output_format: str | None = None,
        callback: Callable[..., Any] | None = None,
    ) -> list[Any]:
        """Convert one rule in every view of its log source.

        Raises:
            SigmaError: the rule cannot be converted, and errors are not collected.
        """
        _ = callback
        chosen = output_format or self.default_format
        try:
            self.init_processing_pipeline(chosen)
            self.last_processing_pipeline.apply(rule)
            condition, notes = self._condition(rule)
            built = build_rule(rule, condition, notes)
        except SigmaError as error:
            if not self.collect_errors:
                raise
            self.errors.append((rule, error))
            return []
        result = built if chosen == "rules" else built.condition
        rule.set_conversion_result([result])
        return [result] if rule._output else []

    def _condition(self, rule: SigmaRule) -> tuple[Node, list[str]]:
        source = self.last_processing_pipeline.state.get(VIEWS)
        if source is None:
            raise FalcoUnsupportedError("Falco sees no events of this log source")
        seen, unseen = views_of(str(source), rule)
        for view in unseen:
            if self._in_view(rule, view) != FALSE:
                raise FalcoUnsupportedError(f"only auditd writes a {view.name}; hosts run none")
        by_condition: dict[Node, list[Node]] = {}
        notes: list[str] = []
        for view in seen:
            node = self._in_view(rule, view)
            if node != FALSE:
                by_condition.setdefault(node, []).append(view.events)
                notes += [view.note] if view.note is not None else []
        whole = any_of(all_of((any_of(e), node)) for node, e in by_condition.items())
        if whole in (TRUE, FALSE):
            raise FalcoUnsupportedError("no event of this log source can satisfy the rule")
        return whole, notes

    def _in_view(self, rule: SigmaRule, view: View) -> Node:
        state = ConversionState(processing_state={_VIEW: view})
        return any_of(
            self.convert_condition(condition.parsed, state)
            for condition in rule.detection.parsed_condition
        )

    # Structure.

    def _parts(self, args: Iterable[Any], state: ConversionState) -> list[Node]:
        return [self.convert_condition(arg, state) for arg in args]

    def _alternatives(self, args: Iterable[Any], state: ConversionState) -> Node:
        return any_of(self._parts(args, state))

    def convert_condition_as_in_expression(
        self, cond: ConditionOR | ConditionAND, state: ConversionState
    ) -> Node:
        """Not used: lists are made from the tree."""
        return self.convert_condition_or(cond, state)

    def convert_condition_or(
        self, cond: ConditionOR | ConditionAND, state: ConversionState
    ) -> Node:
        """One of the parts holds."""
        return self._alternatives(cond.args, state)

    def convert_condition_and(self, cond: ConditionAND, state: ConversionState) -> Node:
        """All of the parts hold.

        A part that Falco cannot say does not matter where another part never holds in this view.
        """
        parts: list[Node] = []
        refused: FalcoUnsupportedError | None = None
        for arg in cond.args:
            try:
                parts.append(self.convert_condition(arg, state))
            except FalcoUnsupportedError as error:
                refused = refused or error
        whole = all_of(parts)
        if refused is not None and whole != FALSE:
            raise refused
        return whole

    def convert_condition_not(self, cond: ConditionNOT, state: ConversionState) -> Node:
        """The part does not hold."""
        return negate(self.convert_condition(cond.args[0], state))

    # Comparisons with a field.

    def _field(self, cond: ConditionFieldEqualsValueExpression, state: ConversionState) -> Field:
        return self._named(cond.field, state)

    def _named(self, name: str, state: ConversionState) -> Field:
        view: View = state.processing_state[_VIEW]
        found = view.fields.get(name)
        if found is None:
            raise FalcoUnsupportedError(f"the field {name} is not known for a {view.name}")
        return found

    def convert_condition_field_eq_val_str(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """Text, without regard to case."""
        value = cast("SigmaString", cond.value)
        return self._text(self._field(cond, state), value)

    def convert_condition_field_eq_val_str_case_sensitive(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """Text with the ``cased`` modifier."""
        return self.convert_condition_field_eq_val_str(cond, state)

    def _text(self, field: Field, value: SigmaString) -> Node:
        wanted = from_sigma(value)
        if "\0" in wanted.text:
            raise FalcoUnsupportedError("text on Linux cannot hold the NUL bytes of this value")
        return field.text(wanted)

    def convert_condition_field_eq_val_num(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """A number."""
        value = cast("SigmaNumber", cond.value)
        return self._field(cond, state).number("=", value.number)

    def convert_condition_field_eq_val_bool(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """True or false, which events write as words."""
        return self._field(cond, state).text(literal(str(cond.value).lower()))

    def convert_condition_field_eq_val_timestamp_part(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """Refused."""
        _ = state
        raise FalcoUnsupportedError(f"Falco has no part of a time to compare {cond.field} with")

    def convert_condition_field_eq_val_re(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """A regular expression."""
        return self._expression(self._field(cond, state), cond)

    def _expression(
        self, field: Field, cond: ConditionFieldEqualsValueExpression | ConditionValueExpression
    ) -> Node:
        value = cast("SigmaRegularExpression", cond.value)
        flags = Flags(
            ignore_case=SigmaRegularExpressionFlag.IGNORECASE in value.flags,
            multi_line=SigmaRegularExpressionFlag.MULTILINE in value.flags,
            dot_all=SigmaRegularExpressionFlag.DOTALL in value.flags,
        )
        return field.regex(expression_of(value), flags)

    def convert_condition_field_eq_val_cidr(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """A network."""
        value = cast("SigmaCIDRExpression", cond.value)
        return self._field(cond, state).network(value.cidr)

    def convert_condition_field_compare_op_val(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """Less or more than a number."""
        value = cast("SigmaCompareExpression", cond.value)
        operator = _OPERATORS.get(value.op)
        if operator is None or not isinstance(value.number, SigmaNumber):
            raise FalcoUnsupportedError(f"the comparison of {cond.field} is not one with a number")
        return self._field(cond, state).number(operator, value.number.number)

    def convert_condition_field_eq_field(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """Another field's value."""
        value = cast("SigmaFieldReference", cond.value)
        operator = {
            (True, True): "contains",
            (True, False): "startswith",
            (False, True): "endswith",
        }.get((value.starts_with, value.ends_with), "=")
        return self._field(cond, state).reference(self._named(value.field, state), operator)

    def convert_condition_field_eq_val_null(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """The event does not have the field."""
        return negate(self._field(cond, state).exists())

    def convert_condition_field_exists(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """The event has the field."""
        return self._field(cond, state).exists()

    def convert_condition_field_not_exists(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """The event does not have the field."""
        return negate(self._field(cond, state).exists())

    def convert_condition_field_eq_query_expr(
        self, cond: ConditionFieldEqualsValueExpression, state: ConversionState
    ) -> Node:
        """Refused: a query of another product."""
        _ = state
        raise FalcoUnsupportedError(f"{cond.field} is compared with a query of another product")

    # Values without a field.

    def _anywhere(self, state: ConversionState) -> Field:
        view: View = state.processing_state[_VIEW]
        if view.keywords is None:
            raise FalcoUnsupportedError(f"a {view.name} has no text to look for keywords in")
        return view.keywords

    def convert_condition_val_str(
        self, cond: ConditionValueExpression, state: ConversionState
    ) -> Node:
        """A keyword: text found anywhere."""
        value = cast("SigmaString", cond.value)
        found = from_sigma(value)
        anywhere = pattern((Wild.ANY, *found.parts, Wild.ANY), cased=found.cased)
        return self._anywhere(state).text(anywhere)

    def convert_condition_val_num(
        self, cond: ConditionValueExpression, state: ConversionState
    ) -> Node:
        """A number as a keyword."""
        anywhere = pattern((Wild.ANY, str(cond.value), Wild.ANY), cased=False)
        return self._anywhere(state).text(anywhere)

    def convert_condition_val_re(
        self, cond: ConditionValueExpression, state: ConversionState
    ) -> Node:
        """A regular expression as a keyword."""
        return self._expression(self._anywhere(state), cond)

    def convert_condition_val(self, cond: ConditionValueExpression, state: ConversionState) -> Node:
        """A value without a field; one that stands for several, for any of them."""
        if isinstance(cond.value, SigmaExpansion):
            parts = (ConditionValueExpression(value) for value in cond.value.values)
            return self._alternatives(parts, state)
        return cast("Node", super().convert_condition_val(cond, state))

    def convert_condition_query_expr(
        self, cond: ConditionValueExpression, state: ConversionState
    ) -> Node:
        """Refused: a query of another product."""
        _ = cond, state
        raise FalcoUnsupportedError("the rule holds a query of another product")

    # Correlations: Falco judges one event at a time; LogQL takes them over Falco's alerts.

    def _no_correlation(
        self, rule: SigmaCorrelationRule, *_args: Any, **_options: Any
    ) -> list[Any]:
        refused = FalcoUnsupportedError(f"Falco cannot correlate the events of {rule.title!r}")
        if not self.collect_errors:
            raise refused
        self.errors.append((rule, refused))  # type: ignore[arg-type]
        return []

    convert_correlation_rule = _no_correlation
    convert_correlation_event_count_rule = _no_correlation
    convert_correlation_value_count_rule = _no_correlation
    convert_correlation_value_sum_rule = _no_correlation
    convert_correlation_value_avg_rule = _no_correlation
    convert_correlation_value_median_rule = _no_correlation
    convert_correlation_value_percentile_rule = _no_correlation
    convert_correlation_temporal_rule = _no_correlation
    convert_correlation_temporal_ordered_rule = _no_correlation
    convert_correlation_extended_temporal_rule = _no_correlation
    convert_correlation_extended_temporal_ordered_rule = _no_correlation

    # Output.

    def finalize_output_default(self, queries: list[Any]) -> list[str]:
        """The conditions."""
        return list(queries)

    def finalize_output_rules(self, queries: list[FalcoRule]) -> str:
        """One rules file."""
        return rules_document(queries)
