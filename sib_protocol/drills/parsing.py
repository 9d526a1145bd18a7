"""Reading drill files: strict, and every problem with its line. Pure but for :func:`load_drills`.

An unknown key is a problem: a drill whose ``contained`` is misspelt would prove something else.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from sib_protocol.drills.model import (
    MAX_ACTS,
    MAX_SCRIPT_BYTES,
    RULE_ID,
    Act,
    Drill,
    DrillProblem,
    Endpoint,
    QuietCase,
    RuleDrill,
)
from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_protocol.events import TECHNIQUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeAlias

    Fields: TypeAlias = dict[str, tuple[yaml.Node, yaml.Node]]

SUFFIX: Final = ".drills.yaml"
_MAX_FILE: Final = 1024 * 1024
_MAX_DEPTH: Final = 12
# The same but for its speed, where PyYAML was built with it.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WANTED_KEYS: Final = ("id", "rule", "false_positives", "quiet")
_ENTRY_KEYS: Final = (*_WANTED_KEYS, "drill", "drills")
_ACT_KEYS: Final = frozenset({"setup", "run", "contained", "needs", "listen"})


class DrillFilesError(SibError):
    """Drill files that cannot be used.

    Attributes:
        problems: all that was found.
    """

    exit_code = ExitCode.DAMAGED

    def __init__(self, problems: tuple[DrillProblem, ...]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}", "see docs/drills.md")
        self.problems = problems


class _Bad(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, node: yaml.Node, reason: str) -> None:
        super().__init__(reason)
        self.line = node.start_mark.line + 1
        self.reason = reason


class _Reader:
    """Turns the nodes of one file into the model, and notes what is wrong on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[DrillProblem] = []

    def note(self, bad: _Bad) -> None:
        self.problems.append(DrillProblem(self.path, bad.line, bad.reason))

    def entry(self, node: yaml.Node) -> RuleDrill | None:
        try:
            fields = _entry_fields(node)
        except _Bad as bad:
            self.note(bad)
            return None
        before = len(self.problems)
        identifier = self.take(_text, fields["id"][1]) or ""
        if identifier and not RULE_ID.fullmatch(identifier):
            self.note(_Bad(fields["id"][1], f"{identifier!r} is not a rule id like sib-ca-001"))
        rule = self.take(_text, fields["rule"][1]) or ""
        known = self.take(_texts, fields["false_positives"][1]) or ()
        drills: tuple[Drill, ...] = ()
        if "drills" in fields:
            drills = self.named(fields["drills"][1], "drills", _named_drill)
        elif (act := self.take(_act, fields["drill"][1])) is not None:
            drills = (Drill(act),)
        quiet = self.named(fields["quiet"][1], "quiet", _quiet_case)
        if len(self.problems) > before:
            return None
        return RuleDrill(identifier, rule, known, drills, quiet, node.start_mark.line + 1)

    def take(self, read: Callable[[yaml.Node], _T], node: yaml.Node) -> _T | None:
        try:
            return read(node)
        except _Bad as bad:
            self.note(bad)
            return None

    def named(
        self, node: yaml.Node, key: str, read: Callable[[yaml.Node], _Named]
    ) -> tuple[_Named, ...]:
        if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= MAX_ACTS:
            self.note(_Bad(node, f"{key!r} wants a list of 1 to {MAX_ACTS} acts"))
            return ()
        found: dict[str, _Named] = {}
        for item in node.value:
            one = self.take(read, item)
            if one is not None and one.name in found:
                self.note(_Bad(item, f"an act named {one.name!r} stands here twice"))
            elif one is not None:
                found[one.name] = one
        return tuple(found.values())


if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")
    _Named = TypeVar("_Named", Drill, QuietCase)


def _mapping(node: yaml.Node, known: Iterable[str], wanted: Iterable[str] = ()) -> Fields:
    if not isinstance(node, yaml.MappingNode):
        raise _Bad(node, "a mapping is wanted here")
    names = set(known)
    found: Fields = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value not in names:
            word = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise _Bad(key, f"unknown key {word!r}; known: {', '.join(sorted(names))}")
        if key.value in found:
            raise _Bad(key, f"{key.value!r} stands here twice")
        found[key.value] = (key, value)
    missing = [repr(name) for name in wanted if name not in found]
    if missing:
        are = "are" if len(missing) > 1 else "is"
        raise _Bad(node, f"{' and '.join(missing)} {are} missing")
    return found


def _entry_fields(node: yaml.Node) -> Fields:
    fields = _mapping(node, _ENTRY_KEYS, _WANTED_KEYS)
    if ("drill" in fields) == ("drills" in fields):
        raise _Bad(node, "either 'drill', one act, or 'drills', a list of acts, is wanted")
    return fields


def _text(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        raise _Bad(node, "a text is wanted here")
    text: str = node.value
    if not text.strip():
        raise _Bad(node, "this text is empty")
    if len(text.encode(errors="surrogatepass")) > MAX_SCRIPT_BYTES or "\0" in text:
        raise _Bad(node, f"this text is longer than {MAX_SCRIPT_BYTES} bytes or holds a NUL")
    return text


def _texts(node: yaml.Node) -> tuple[str, ...]:
    if not isinstance(node, yaml.SequenceNode) or not 1 <= len(node.value) <= MAX_ACTS:
        raise _Bad(node, f"a list of 1 to {MAX_ACTS} texts is wanted here")
    return tuple(_text(item) for item in node.value)


def _flag(node: yaml.Node) -> bool:
    if not isinstance(node, yaml.ScalarNode) or node.value not in {"true", "false"}:
        raise _Bad(node, "true or false is wanted here")
    return bool(node.value == "true")


def _endpoint(node: yaml.Node, text: str) -> Endpoint:
    transport, slash, rest = text.rpartition("/")
    address, _, port = rest.rpartition(":")
    try:
        number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        number = 0
    if (slash and transport != "udp") or not 1 <= number <= 65535:
        raise _Bad(node, f"{text!r} is not like 127.0.0.1:8080 or udp/127.0.0.1:53")
    return Endpoint(str(ip), number, transport == "udp")


def _act(node: yaml.Node, *, beside: frozenset[str] = frozenset()) -> Act:
    fields = _mapping(node, _ACT_KEYS | beside, ("run",))

    def value(key: str) -> yaml.Node | None:
        return fields[key][1] if key in fields else None

    setup, contained, needs, listen = map(value, ("setup", "contained", "needs", "listen"))
    programs = _texts(needs) if needs is not None else ()
    if needs is not None and any("/" in program for program in programs):
        raise _Bad(needs, "'needs' wants names of programs, not paths")
    return Act(
        run=_text(fields["run"][1]),
        setup=_text(setup) if setup is not None else "",
        contained=_flag(contained) if contained is not None else False,
        needs=programs,
        listen=tuple(_endpoint(listen, text) for text in _texts(listen))
        if listen is not None
        else (),
    )


def _quiet_case(node: yaml.Node) -> QuietCase:
    act = _act(node, beside=frozenset({"name"}))
    fields = {key.value: value for key, value in node.value}
    if "name" not in fields:
        raise _Bad(node, "'name' is missing: say what everyday act this is")
    return QuietCase(_text(fields["name"]), act)


def _named_drill(node: yaml.Node) -> Drill:
    act = _act(node, beside=frozenset({"name", "proves"}))
    fields = {key.value: value for key, value in node.value}
    if "name" not in fields or "proves" not in fields:
        raise _Bad(node, "a drill among several wants its 'name' and the techniques it 'proves'")
    proves = _texts(fields["proves"])
    for technique in proves:
        if not TECHNIQUE.fullmatch(technique):
            raise _Bad(fields["proves"], f"{technique!r} is not a technique such as T1003.008")
    return Drill(act, _text(fields["name"]), proves)


def _depth(node: yaml.Node, room: int = _MAX_DEPTH) -> bool:
    """Whether a tree is no deeper than any drill file: aliases can make one without an end."""
    if room == 0:
        return False
    if isinstance(node, yaml.SequenceNode):
        return all(_depth(item, room - 1) for item in node.value)
    if isinstance(node, yaml.MappingNode):
        return all(_depth(part, room - 1) for pair in node.value for part in pair)
    return True


def parse_drills(text: str, path: Path) -> tuple[tuple[RuleDrill, ...], tuple[DrillProblem, ...]]:
    """Read one drill file.

    Args:
        text: its content.
        path: named in problems.

    Returns:
        The entries that are well, and everything that is wrong.
    """
    reader = _Reader(path)
    try:
        events = yaml.parse(text, Loader=_LOADER)
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            return (), (DrillProblem(path, 1, "anchors and aliases are not for drill files"),)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        return (), (DrillProblem(path, line, f"not valid YAML: {reason}"),)
    except (ValueError, RecursionError) as error:
        return (), (DrillProblem(path, 1, f"not valid YAML: {error}"),)
    if root is None:
        return (), ()
    if not isinstance(root, yaml.SequenceNode) or not _depth(root):
        return (), (DrillProblem(path, root.start_mark.line + 1, "a list of drills is wanted"),)
    found = [entry for node in root.value if (entry := reader.entry(node)) is not None]
    for what, counts in (
        ("id", Counter(entry.id for entry in found)),
        ("rule", Counter(entry.rule for entry in found)),
    ):
        seen: set[str] = set()
        for entry in found:
            name = entry.id if what == "id" else entry.rule
            if counts[name] > 1 and name in seen:
                reader.problems.append(
                    DrillProblem(path, entry.line, f"the {what} {name!r} stands here twice")
                )
            seen.add(name)
    return tuple(found), tuple(sorted(reader.problems, key=lambda problem: problem.line))


def drill_files(place: Path) -> list[Path]:
    """The drill files at a place: itself, or all below a folder, in the order of their names."""
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob(f"*{SUFFIX}") if path.is_file())


def read_text(path: Path) -> str:
    """A drill or rule file's text, bounded in size.

    Raises:
        FileAccessError: it cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    if len(content) > _MAX_FILE:
        raise FileAccessError(path, f"larger than {_MAX_FILE} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise FileAccessError(path, "not UTF-8 text") from error


def load_drills(place: Path) -> tuple[RuleDrill, ...]:
    """All drills at a place.

    Args:
        place: one drill file, or a folder with some.

    Raises:
        FileAccessError: a file cannot be read.
        DrillFilesError: one holds what it must not, or two have the same id.
    """
    drills: list[RuleDrill] = []
    problems: list[DrillProblem] = []
    owners: dict[str, Path] = {}
    if not place.exists():
        raise FileAccessError(place, "no such file or folder")
    for path in drill_files(place):
        found, wrong = parse_drills(read_text(path), path)
        problems += wrong
        for drill in found:
            if drill.id in owners and owners[drill.id] != path:
                reason = f"the id {drill.id!r} stands in {owners[drill.id]}, too"
                problems.append(DrillProblem(path, drill.line, reason))
            owners.setdefault(drill.id, path)
        drills += found
    if problems:
        raise DrillFilesError(tuple(problems))
    return tuple(drills)


def missing_drills(rules: Mapping[str, tuple[Path, int]], drills: Iterable[RuleDrill]) -> list[str]:
    """The names of rules beside which no drill stands."""
    drilled = {drill.rule for drill in drills}
    return [name for name in rules if name not in drilled]
