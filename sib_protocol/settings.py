"""Reading a settings file into a frozen, typed structure.

A setting is declared once: its type, its default and its help stand at its field. An unknown key
is an error that names it, because a misspelt setting that is silently ignored is a lie.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from sib_protocol.errors import FileAccessError, SettingsError

Settings = TypeVar("Settings", bound=msgspec.Struct)

_DEEPEST: Final = 20
_MOST_VALUES: Final = 100_000

_UNKNOWN = re.compile(
    r"Object contains unknown field `(?P<key>[^`]+)`(?: - at `\$\.?(?P<at>[^`]*)`)?"
)
_AT = re.compile(r"(?P<reason>.*) - at `\$\.?(?P<at>[^`]*)`", re.DOTALL)


def _decode_hook(wanted: type, value: Any) -> Any:
    if wanted is Path or issubclass(wanted, Path):
        return Path(value)
    raise TypeError(f"no conversion to {wanted.__name__}")


def _keys_of(wanted: type[msgspec.Struct], at: str) -> list[str]:
    """The keys that a structure, or the nested one at a dotted place, knows."""
    current: Any = wanted
    for part in filter(None, at.split(".")):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(current)}
        current = fields.get(part)
        if not (isinstance(current, type) and issubclass(current, msgspec.Struct)):
            return []
    return [field.encode_name for field in msgspec.structs.fields(current)]


def parse_settings(text: str, wanted: type[Settings], path: Path) -> Settings:
    """Turn YAML text into settings.

    Args:
        text: the file's content; empty means all defaults.
        wanted: a frozen ``msgspec.Struct`` with ``forbid_unknown_fields``.
        path: named in errors.

    Raises:
        SettingsError: not YAML, an unknown key, or a value of the wrong kind.
    """
    return convert_settings(parse_tree(text, path), wanted, path)


def parse_tree(text: str, path: Path) -> Any:
    """YAML text as plain data.

    Raises:
        SettingsError: not YAML, nested too deep, or by its aliases larger than settings are.
    """
    try:
        _check_depth(text, path)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark is not None else None
        reason = getattr(error, "problem", None) or str(error)
        raise SettingsError(path, line, f"not valid YAML: {reason}") from error
    except (ValueError, RecursionError) as error:
        # A day that no month has, a number of thousands of digits, lists in lists in lists.
        raise SettingsError(path, None, f"not valid YAML: {error}") from error
    if not _fits(tree):
        raise SettingsError(path, None, "by its aliases larger or deeper than settings are")
    return tree


def _check_depth(text: str, path: Path) -> None:
    """Before anything is built, which takes long for what is nested deep."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            line = f"line {event.start_mark.line + 1}" if event.start_mark is not None else None
            raise SettingsError(path, line, f"nested deeper than {_DEEPEST} levels")


def _fits(tree: Any) -> bool:
    """Whether a tree is as small as settings are, with what aliases name counted each time.

    Linear: what an alias names is one object and is looked at once.
    """
    known: dict[int, tuple[int, int]] = {}

    def measure(value: Any, room: int) -> tuple[int, int]:
        """How many values it has, and how deep it is."""
        if not isinstance(value, (dict, list, set)):
            return 1, 0
        if id(value) not in known:
            if room == 0:
                # Deeper than the text is: an alias that leads into itself.
                return _MOST_VALUES + 1, 0
            inner = list(value.values()) if isinstance(value, dict) else list(value)
            parts = [measure(one, room - 1) for one in inner]
            known[id(value)] = (
                1 + sum(count for count, _ in parts),
                1 + max((depth for _, depth in parts), default=0),
            )
        return known[id(value)]

    count, depth = measure(tree, _DEEPEST)
    return count <= _MOST_VALUES and depth <= _DEEPEST


def convert_settings(tree: Any, wanted: type[Settings], path: Path) -> Settings:
    """Turn plain data into settings.

    Args:
        tree: what YAML gave; ``None`` means all defaults.
        wanted: a frozen ``msgspec.Struct`` with ``forbid_unknown_fields``.
        path: named in errors.

    Raises:
        SettingsError: an unknown key, or a value of the wrong kind.
    """
    try:
        return msgspec.convert(tree if tree is not None else {}, wanted, dec_hook=_decode_hook)
    except msgspec.ValidationError as error:
        raise _explain(str(error), wanted, path) from error


def _explain(message: str, wanted: type[msgspec.Struct], path: Path) -> SettingsError:
    unknown = _UNKNOWN.fullmatch(message)
    if unknown:
        at = unknown["at"] or ""
        known = _keys_of(wanted, at)
        close = difflib.get_close_matches(unknown["key"], known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        key = ".".join(filter(None, [at, unknown["key"]]))
        return SettingsError(path, key, "unknown setting", remedy)
    located = _AT.fullmatch(message)
    if located:
        return SettingsError(path, located["at"], located["reason"])
    return SettingsError(path, None, message)


def load_settings(path: Path, wanted: type[Settings]) -> Settings:
    """Read settings from a file.

    Raises:
        FileAccessError: the file cannot be read.
        SettingsError: what is in it cannot be used.
    """
    return parse_settings(read_settings(path), wanted, path)


def read_settings(path: Path) -> str:
    """A settings file's text.

    Raises:
        FileAccessError: the file cannot be read.
        SettingsError: it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileAccessError(path, "no such settings file") from error
    except UnicodeDecodeError as error:
        raise SettingsError(path, None, "not UTF-8 text") from error
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
