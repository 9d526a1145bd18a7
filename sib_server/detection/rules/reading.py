"""Reading a rules file into items. Every finding is collected; none stops the reading. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.documents import (
    DocumentError,
    Mapping,
    Node,
    Scalar,
    Sequence,
    read_documents,
)
from sib_server.detection.rules.findings import Finding, LintName, Place, Severity, meant
from sib_server.detection.rules.items import (
    EngineItem,
    ExceptionValue,
    Item,
    ListItem,
    MacroItem,
    Operation,
    PluginsItem,
    RuleException,
    RuleItem,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

READING: Final = LintName("reading")
"""The file is not what Falco reads."""
UNKNOWN_KEY: Final = LintName("unknown-key")

_TEXTS: Final = ("condition", "output", "desc", "priority", "source")
_FLAGS: Final = ("enabled", "warn_evttypes", "skip-if-unknown-filter", "capture")
_RULE_KEYS: Final = frozenset(
    {"rule", *_TEXTS, *_FLAGS, "tags", "exceptions", "capture_duration", "override", "append"}
)
_KEYS: Final = {
    "rule": _RULE_KEYS,
    "macro": frozenset({"macro", "condition", "append", "override"}),
    "list": frozenset({"list", "items", "append", "override"}),
    "required_engine_version": frozenset({"required_engine_version"}),
    "required_plugin_versions": frozenset({"required_plugin_versions"}),
}
_REQUIRED: Final = ("condition", "output", "desc", "priority")
_APPENDABLE: Final = frozenset({"condition", "output", "desc", "tags", "exceptions"})
_REPLACEABLE: Final = _RULE_KEYS - {"rule", "source", "override", "append"}
_TRUE: Final = frozenset({"true", "yes", "y", "on"})
_FALSE: Final = frozenset({"false", "no", "n", "off"})


class _Bad(Exception):  # noqa: N818 - never leaves this module
    """An item that cannot be used; the finding is the argument."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line = line
        self.reason = reason


def read_items(file: str, content: bytes) -> tuple[list[Item], list[Finding]]:
    """Read a rules file.

    Args:
        file: how findings name it.
        content: its bytes.

    Returns:
        The items that can be used, in order, and what is wrong with the others.
    """
    try:
        documents = read_documents(content)
    except DocumentError as error:
        return [], [Finding(Place(file, error.line), "", READING, error.reason)]
    reader = _Reader(file)
    for document in documents:
        if not isinstance(document, Sequence):
            reason = "a rules file is a list of items, which begin with `- rule:` or the like"
            reader.complain(document.line, "", reason)
            continue
        for node in document.items:
            reader.read(node)
    return reader.items, reader.findings


class _Reader:
    def __init__(self, file: str) -> None:
        self._file = file
        self.items: list[Item] = []
        self.findings: list[Finding] = []

    def complain(
        self, line: int, rule: str, reason: str, lint: LintName = READING, *, warn: bool = False
    ) -> None:
        severity = Severity.WARNING if warn else Severity.ERROR
        self.findings.append(Finding(Place(self._file, line), rule, lint, reason, severity))

    def read(self, node: Node) -> None:
        if isinstance(node, Scalar) and node.is_null:
            return
        if not isinstance(node, Mapping):
            self.complain(node.line, "", "an item is a mapping, such as `- rule: NAME`")
            return
        kind = next((known for known in _KEYS if known in node.entries), None)
        if kind is None:
            keys = ", ".join(sorted(node.entries))[:200]
            reason = f"an item without `rule`, `macro` or `list`; its keys are {keys}"
            self.complain(node.line, "", reason)
            return
        head = node.entries[kind]
        name = head.text if isinstance(head, Scalar) else ""
        for key in sorted(node.entries.keys() - _KEYS[kind]):
            line = node.entries[key].line
            reason = f"Falco knows no key {key!r} of a {kind}{meant(key, _KEYS[kind])}"
            self.complain(line, name, reason, UNKNOWN_KEY)
        try:
            self.items.append(self._item(kind, node))
        except _Bad as error:
            self.complain(error.line, name, error.reason)

    def _item(self, kind: str, node: Mapping) -> Item:
        place = Place(self._file, node.line)
        if kind == "required_engine_version":
            return EngineItem(_text(node, kind), place)
        if kind == "required_plugin_versions":
            return PluginsItem(_plugins(node.entries[kind]), place)
        name = _text(node, kind)
        override = _override(node, kind)
        append = _flag(node, "append") is True
        if append and override:
            raise _Bad(node.line, "`append` and `override` exclude each other")
        if kind == "list":
            items = _texts(node, "items", null=True)
            return ListItem(name, place, items, append or Operation.APPEND in override.values())
        if kind == "macro":
            adds = append or Operation.APPEND in override.values()
            return MacroItem(name, place, self._long_text(node, "condition"), adds)
        return self._rule(name, place, node, override, append)

    def _rule(
        self,
        name: str,
        place: Place,
        node: Mapping,
        override: dict[str, Operation],
        append: bool,
    ) -> RuleItem:
        texts = {key: self._long_text(node, key) for key in _TEXTS if _given(node, key)}
        flags = {key: flag for key in _FLAGS if (flag := _flag(node, key)) is not None}
        item = RuleItem(
            name,
            place,
            texts,
            flags,
            _texts(node, "tags") if "tags" in node.entries else None,
            self._exceptions(node, adds=append or Operation.APPEND in override.values()),
            _text(node, "capture_duration") if "capture_duration" in node.entries else None,
            override,
            append,
        )
        if item.is_definition:
            missing = [key for key in _REQUIRED if key not in texts]
            if missing:
                raise _Bad(node.line, f"the rule has no {' and no '.join(missing)}")
        for key in node.entries:
            told = key in override or key not in _RULE_KEYS - {"rule", "override", "source"}
            if override and not told:
                raise _Bad(node.entries[key].line, f"`override` does not say what {key!r} is for")
        return item

    def _long_text(self, node: Mapping, key: str) -> Text:
        value = _required(node, key)
        if not value.text.strip():
            raise _Bad(value.line, f"{key!r} is empty")
        place = Place(self._file, value.line)
        return Text(value.text, place, value.last_line, value.block)

    def _exceptions(self, node: Mapping, *, adds: bool) -> tuple[RuleException, ...] | None:
        given = node.entries.get("exceptions")
        if given is None:
            return None
        if isinstance(given, Scalar) and given.is_null:
            return ()
        return tuple(self._exception(one, adds=adds) for one in _sequence(given, "exceptions"))

    def _exception(self, node: Node, *, adds: bool) -> RuleException:
        if not isinstance(node, Mapping):
            raise _Bad(node.line, "an exception is a mapping with a name")
        name = _text(node, "name")
        for key in sorted(node.entries.keys() - {"name", "fields", "comps", "values"}):
            line = node.entries[key].line
            self.complain(line, name, f"Falco knows no key {key!r} of an exception", UNKNOWN_KEY)
        fields = node.entries.get("fields")
        if fields is None and not adds:
            raise _Bad(node.line, f"the exception {name!r} names no fields")
        single = isinstance(fields, Scalar)
        names = _one_or_many(fields, "fields")
        comps = _one_or_many(node.entries.get("comps"), "comps")
        if names and comps and (len(names) != len(comps)):
            raise _Bad(node.line, f"the exception {name!r} has {len(names)} fields, not as many "
                                  f"comps ({len(comps)})")  # fmt: skip
        values = tuple(_value(one) for one in _sequence(node.entries.get("values"), "values"))
        for value in values if names else ():
            fits = isinstance(value, str) if single else len(value) == len(names)
            if not fits or (isinstance(value, str) and not single):
                raise _Bad(node.line, f"a value of the exception {name!r} does not fit its fields")
        return RuleException(name, names, single, comps, values, Place(self._file, node.line))


def _required(node: Mapping, key: str) -> Scalar:
    value = node.entries.get(key)
    if value is None:
        raise _Bad(node.line, f"{key!r} is missing")
    if not isinstance(value, Scalar):
        raise _Bad(value.line, f"{key!r} is a text")
    if "\0" in value.text:
        raise _Bad(value.line, f"{key!r} holds a NUL")
    return value


def _given(node: Mapping, key: str) -> bool:
    value = node.entries.get(key)
    # Falco takes an empty source for none.
    return value is not None and not (
        key == "source" and isinstance(value, Scalar) and (value.is_null or not value.text)
    )


def _text(node: Mapping, key: str) -> str:
    value = _required(node, key)
    if value.is_null or not value.text:
        raise _Bad(value.line, f"{key!r} is empty")
    return value.text


def _flag(node: Mapping, key: str) -> bool | None:
    if key not in node.entries:
        return None
    value = _required(node, key)
    if value.text.lower() in _TRUE:
        return True
    if value.text.lower() in _FALSE:
        return False
    raise _Bad(value.line, f"{key!r} is true or false, not {value.text[:40]!r}")


def _sequence(node: Node | None, key: str) -> tuple[Node, ...]:
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return ()
    if not isinstance(node, Sequence):
        raise _Bad(node.line, f"{key!r} is a list")
    return node.items


def _scalars(nodes: Iterable[Node], key: str) -> tuple[str, ...]:
    found = []
    for node in nodes:
        if not isinstance(node, Scalar):
            raise _Bad(node.line, f"{key!r} is a list of texts")
        found.append(node.text)
    return tuple(found)


def _texts(node: Mapping, key: str, *, null: bool = False) -> tuple[str, ...]:
    value = node.entries.get(key)
    if value is None:
        raise _Bad(node.line, f"{key!r} is missing")
    if not null and isinstance(value, Scalar):
        raise _Bad(value.line, f"{key!r} is a list")
    return _scalars(_sequence(value, key), key)


def _one_or_many(node: Node | None, key: str) -> tuple[str, ...]:
    if isinstance(node, Scalar):
        return (node.text,)
    return _scalars(_sequence(node, key), key)


def _value(node: Node) -> ExceptionValue:
    if isinstance(node, Scalar):
        return node.text
    return tuple(
        part.text if isinstance(part, Scalar) else _scalars(_sequence(part, "values"), "values")
        for part in _sequence(node, "values")
    )


def _override(node: Mapping, kind: str) -> dict[str, Operation]:
    given = node.entries.get("override")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _Bad(given.line, "'override' is a mapping of keys to append or replace")
    found = {}
    appendable = {"rule": _APPENDABLE, "macro": {"condition"}, "list": {"items"}}[kind]
    replaceable = {"rule": _REPLACEABLE, "macro": {"condition"}, "list": {"items"}}[kind]
    for key in given.entries:
        word = _text(given, key)
        try:
            operation = Operation(word)
        except ValueError:
            raise _Bad(given.line, f"an override is append or replace, not {word[:40]!r}") from None
        if key not in (appendable if operation is Operation.APPEND else replaceable):
            raise _Bad(given.line, f"Falco does not {operation.value} {key!r} of a {kind}")
        if key not in node.entries:
            raise _Bad(given.line, f"'override' names {key!r}, which is not given")
        found[key] = operation
    return found


def _plugins(node: Node) -> tuple[tuple[tuple[str, str], ...], ...]:
    found = []
    for plugin in _sequence(node, "required_plugin_versions"):
        if not isinstance(plugin, Mapping):
            raise _Bad(plugin.line, "a plugin is a mapping of name and version")
        options = [plugin]
        for other in _sequence(plugin.entries.get("alternatives"), "alternatives"):
            if not isinstance(other, Mapping):
                raise _Bad(other.line, "an alternative is a mapping of name and version")
            options.append(other)
        found.append(tuple((_text(one, "name"), _text(one, "version")) for one in options))
    return tuple(found)
