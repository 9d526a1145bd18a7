"""pySigma pipelines: which log source is what on SIB's hosts."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sigma.processing.conditions import LogsourceCondition
from sigma.processing.pipeline import ProcessingItem, ProcessingPipeline
from sigma.processing.transformations import (
    SetStateTransformation,
    ValueListPlaceholderTransformation,
)
from sigma.rule import SigmaDetection, SigmaDetectionItem

from sib_server.detection.sigma.audit import audit_views, read_definition
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.views import (
    FILE_EVENT,
    NAME_LOOKUP,
    NETWORK_CONNECTION,
    PROCESS_CREATION,
    View,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sigma.rule import SigmaRule

VIEWS: Final = "falco_views"
"""Key of the pipeline's state that names the log source for the Falco backend."""
AUDITD: Final = "auditd"
FALCO_CATEGORIES: Final = ("process_creation", "file_event", "network_connection")


def linux_pipeline(
    placeholders: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> ProcessingPipeline:
    """Sigma's Linux log sources that Falco's system calls can stand for.

    A pipeline that maps an organisation's own field names may be put before it.

    Args:
        placeholders: values for ``|expand``: name -> values.
    """
    sources = {
        **{name: LogsourceCondition(category=name, product="linux") for name in FALCO_CATEGORIES},
        AUDITD: LogsourceCondition(product="linux", service="auditd"),
    }
    return ProcessingPipeline(
        name="SIB: Linux log sources in Falco",
        priority=50,
        items=[
            *placeholder_items(placeholders),
            *(
                ProcessingItem(
                    identifier=f"falco_{name}",
                    transformation=SetStateTransformation(VIEWS, name),
                    rule_conditions=[condition],
                )
                for name, condition in sources.items()
            ),
        ],
        vars={name: list(values) for name, values in placeholders.items()},
    )


def placeholder_items(placeholders: Mapping[str, Sequence[str]]) -> list[ProcessingItem]:
    """Fill in the placeholders that have values; the others are refused at conversion."""
    if not placeholders:
        return []
    fill = ValueListPlaceholderTransformation(include=sorted(placeholders))
    return [ProcessingItem(identifier="sib_placeholders", transformation=fill)]


def views_of(source: str, rule: SigmaRule) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """The views in which a rule is read, and those that exist but that Falco does not see.

    Raises:
        FalcoUnsupportedError: a pipeline named a log source that is not known here.
    """
    if source == "process_creation":
        return PROCESS_CREATION, ()
    if source == "file_event":
        return FILE_EVENT, ()
    if source == "network_connection":
        named = any(item.field == "DestinationHostname" for item in detection_items(rule))
        return (NAME_LOOKUP if named else NETWORK_CONNECTION), ()
    if source == AUDITD:
        return _audit(rule)
    raise FalcoUnsupportedError(f"no views are known for the log source {source!r}")


def _audit(rule: SigmaRule) -> tuple[tuple[View, ...], tuple[View, ...]]:
    items = list(detection_items(rule))
    records = [str(value).upper() for item in items if item.field == "type" for value in item.value]
    watch = read_definition(rule.logsource.definition or "")
    names_call = any(item.field in {"SYSCALL", "key"} for item in items)
    return audit_views(watch, records, names_call=names_call)


def detection_items(rule: SigmaRule) -> Iterator[SigmaDetectionItem]:
    """All comparisons of a rule, in order."""
    waiting: list[SigmaDetection | SigmaDetectionItem] = list(rule.detection.detections.values())
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, SigmaDetection):
            waiting[:0] = item.detection_items
        else:
            yield item
