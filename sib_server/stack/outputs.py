"""``/etc/sib/outputs.yaml``: where alerts go, in Falcosidekick's own words, checked. Pure.

Falcosidekick itself ignores a key that it does not know, and a value that it cannot use: an alert
that nobody gets is found out too late. So what it would ignore is an error here.
"""

from __future__ import annotations

import difflib
import importlib.resources
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import yaml

from sib_protocol.checks import Finding, Verdict, failed, warning
from sib_protocol.errors import SettingsError
from sib_protocol.settings import parse_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CHECK: Final = "outputs"
PRIORITIES: Final = (
    "emergency",
    "alert",
    "critical",
    "error",
    "warning",
    "notice",
    "informational",
    "debug",
)
_MAX_BYTES: Final = 1024 * 1024
_OURS: Final = {
    "listenaddress": "it listens on loopback only",
    "listenport": "see stack.falcosidekick.port in server.yaml",
    "tlsserver": "it listens on loopback only",
    "debug": "it would write every event into the system's log",
    "loki": "events are in Loki already: the server's own sink delivers them",
}
_URLS: Final = frozenset({"webhookurl", "receiverurl", "apiurl", "eventlistener"})
_URLS_OF: Final = {
    "alertmanager": "hostport",
    "cloudevents": "address",
    "elasticsearch": "hostport",
    "gotify": "hostport",
    "grafana": "hostport",
    "influxdb": "hostport",
    "kafkarest": "address",
    "n8n": "address",
    "nodered": "address",
    "openobserve": "hostport",
    "quickwit": "hostport",
    "splunk": "host",
    "talon": "address",
    "webhook": "address",
    "webui": "url",
    "zincsearch": "hostport",
}
_COUNTED: Final = frozenset(
    {
        *("alertmanager", "cliq", "discord", "googlechat", "gotify", "mattermost", "n8n"),
        *("nodered", "opsgenie", "pagerduty", "rocketchat", "slack", "splunk", "teams"),
        *("telegram", "webex", "webhook"),
    }
)
"""Outputs that count each event they send once, under their own name, as soon as it is sent."""


class Kind(Enum):
    """What a value is."""

    TEXT = "text"
    FLAG = "flag"
    NUMBER = "number"
    LIST = "list"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Output:
    """What one output, or a part of one like ``aws.s3``, takes.

    Attributes:
        keys: name, lower case -> kind.
        needs: keys without which it does nothing; empty where only its parts do something.
        parts: outputs below it.
    """

    keys: Mapping[str, Kind]
    needs: tuple[str, ...] = ()
    parts: Mapping[str, Output] = field(default_factory=dict)


_GENERAL: Final[Mapping[str, Output | Kind]] = {
    "customfields": Kind.MAP,
    "customtags": Kind.LIST,
    "templatedfields": Kind.MAP,
    "bracketreplacer": Kind.TEXT,
    "outputfieldformat": Kind.TEXT,
    "mutualtlsfilespath": Kind.TEXT,
    "mutualtlsclient": Output(dict.fromkeys(("certfile", "keyfile", "cacertfile"), Kind.TEXT)),
    "tlsclient": Output({"cacertfile": Kind.TEXT}),
    "prometheus": Output({"extralabels": Kind.TEXT}),
}


@dataclass(frozen=True, slots=True)
class Enabled:
    """An output that will be used.

    Attributes:
        name: as in the file, like ``slack`` or ``aws.s3``.
        minimum_priority: below which it gets nothing; empty for all.
        per_event: how often it is counted for an event; ``None`` where that is not known.
    """

    name: str
    minimum_priority: str
    per_event: int | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the file says.

    Attributes:
        tree: as Falcosidekick takes it, keys in lower case; empty where ``findings`` has failures.
        enabled: outputs that will be used, by name.
        findings: what is wrong; the key is in each problem.
    """

    tree: Mapping[str, Any]
    enabled: tuple[Enabled, ...]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Whether it cannot be used."""
        return any(finding.verdict is Verdict.FAILED for finding in self.findings)


NO_OUTPUTS: Final = Outputs({}, (), ())


@cache
def known_outputs() -> Mapping[str, Output]:
    """Every output of Falcosidekick, by name."""
    text = importlib.resources.files("sib_server.stack").joinpath("falcosidekick_outputs.yaml")
    tree = yaml.safe_load(text.read_text(encoding="utf-8"))
    return {name: _output(entry) for name, entry in tree.items()}


def _output(entry: Mapping[str, Any]) -> Output:
    return Output(
        keys={key: kind for kind in Kind for key in entry.get(kind.value, ())},
        needs=tuple(entry.get("needs", ())),
        parts={name: _output(part) for name, part in entry.get("parts", {}).items()},
    )


def read_outputs(content: bytes, path: Path) -> Outputs:
    """Check the file's content.

    Args:
        content: of the file.
        path: named in findings.
    """
    if len(content) > _MAX_BYTES:
        return Outputs({}, (), (failed(CHECK, f"{path}: over 1 MiB", "leave out what is none"),))
    try:
        tree = parse_tree(content.decode(), path)
    except SettingsError as error:
        return Outputs({}, (), (failed(CHECK, error.problem, "correct it"),))
    except UnicodeDecodeError:
        return Outputs({}, (), (failed(CHECK, f"{path}: not UTF-8 text", "correct it"),))
    if tree is None:
        return NO_OUTPUTS
    reader = _Reader(path)
    clean = reader.read(tree)
    found = Outputs({}, (), tuple(reader.findings))
    if found.broken:
        return found
    enabled = sorted(_enabled(clean), key=lambda item: item.name)
    return Outputs(clean, tuple(enabled), found.findings)


class _Reader:
    """Walks through the file and keeps what it finds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.findings: list[Finding] = []

    def read(self, tree: Any) -> dict[str, Any]:
        known: dict[str, Output | Kind] = {**_GENERAL, **known_outputs()}
        clean: dict[str, Any] = {}
        for key, value in self._entries(tree, ""):
            if key in _OURS:
                self._fail(key, "is not yours to set", f"leave it out: {_OURS[key]}")
            elif key not in known:
                self._unknown(key, known, "output")
            else:
                found = known[key]
                if isinstance(found, Kind):
                    clean[key] = self._value(key, value, found)
                else:
                    clean[key] = self._output(key, value, found)
        return clean

    def _output(self, name: str, tree: Any, output: Output) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        for key, value in self._entries(tree, name):
            at = f"{name}.{key}"
            if key in output.parts:
                clean[key] = self._output(at, value, output.parts[key])
            elif key in output.keys:
                clean[key] = self._value(at, value, output.keys[key])
                self._sense(name, key, clean[key])
            else:
                self._unknown(at, {**output.keys, **output.parts}, "key")
        missing = [key for key in output.needs if not clean.get(key)]
        if output.needs and missing:
            wanted = ", ".join(f"{name}.{key}" for key in missing)
            self._warn(name, "does nothing as it is", f"set {wanted}, or leave {name} out")
        return clean

    def _entries(self, tree: Any, at: str) -> Iterator[tuple[str, Any]]:
        if tree is None:
            return
        if not isinstance(tree, dict):
            self._fail(at, "is no mapping of keys to values", "write its keys below it, indented")
            return
        seen: set[str] = set()
        for raw, value in tree.items():
            key = str(raw).lower()
            if key in seen:
                self._fail(f"{at}.{key}".lstrip("."), "is there twice", "leave one out")
            seen.add(key)
            yield key, value

    def _value(self, at: str, value: Any, kind: Kind) -> Any:
        plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        fits = {
            Kind.TEXT: value is None or plain,
            Kind.FLAG: isinstance(value, bool),
            Kind.NUMBER: isinstance(value, int) and not isinstance(value, bool),
            Kind.LIST: isinstance(value, str)
            or (isinstance(value, list) and all(isinstance(item, str | int) for item in value)),
            Kind.MAP: value is None
            or (
                isinstance(value, dict)
                and all(isinstance(item, str | int | float) for item in value.values())
            ),
        }
        if not fits[kind]:
            said = {
                Kind.TEXT: "a text",
                Kind.FLAG: "true or false",
                Kind.NUMBER: "a whole number",
                Kind.LIST: "a list of texts",
                Kind.MAP: "a mapping of names to texts",
            }[kind]
            self._fail(at, f"has to be {said}", "correct it")
            return None
        if kind is Kind.LIST and isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        if value is None:
            return "" if kind is Kind.TEXT else {}
        return str(value) if kind is Kind.TEXT else value

    def _sense(self, name: str, key: str, value: Any) -> None:
        at = f"{name}.{key}"
        if key == "minimumpriority" and value and str(value).lower() not in PRIORITIES:
            close = difflib.get_close_matches(str(value).lower(), PRIORITIES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(PRIORITIES)}"
            self._fail(at, f"{value!r} is no priority", hint)
        if key not in _URLS and _URLS_OF.get(name) != key:
            return
        for url in value if isinstance(value, list) else [value]:
            if url and not _is_url(url):
                # Not shown: a webhook's address is a secret.
                self._fail(at, "is no http:// or https:// address", "write it whole")
            elif url and "XXXX" in url:
                self._fail(at, "is the example of the documentation", "put your own there")

    def _unknown(self, at: str, known: Mapping[str, object], what: str) -> None:
        close = difflib.get_close_matches(at.rpartition(".")[2], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
        self._fail(at, f"is no {what} that Falcosidekick knows", hint)

    def _fail(self, at: str, reason: str, remedy: str) -> None:
        where = f"{self._path}: {at}" if at else f"{self._path}: the file"
        self.findings.append(failed(CHECK, f"{where} {reason}", remedy))

    def _warn(self, at: str, reason: str, remedy: str) -> None:
        self.findings.append(warning(CHECK, f"{self._path}: {at} {reason}", remedy))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _enabled(clean: Mapping[str, Any]) -> Iterator[Enabled]:
    for name, output in known_outputs().items():
        if name in clean:
            yield from _enabled_below(name, clean[name], output)


def _enabled_below(name: str, values: Mapping[str, Any], output: Output) -> Iterator[Enabled]:
    if output.needs and all(values.get(key) for key in output.needs):
        priority = str(values.get("minimumpriority", "")).lower()
        per_event = None
        if name in _COUNTED:
            hosts = values.get("hostport")
            per_event = len(hosts) if isinstance(hosts, list) else 1
        yield Enabled(name, priority, per_event)
    for part, below in output.parts.items():
        if part in values:
            yield from _enabled_below(f"{name}.{part}", values[part], below)


def expectations(outputs: Outputs) -> dict[str, dict[str, Any]]:
    """``sinks.falcosidekick.outputs`` for them: what each counts for an event.

    Returns:
        Empty where one of them counts in a way that is not known: then the sink waits until the
        counters stand still, which is slower and always right.
    """
    if any(item.per_event is None for item in outputs.enabled):
        return {}
    return {
        item.name: {"minimum_priority": item.minimum_priority, "per_event": item.per_event}
        for item in outputs.enabled
    }


def falcosidekick_config(outputs: Outputs, port: int) -> dict[str, Any]:
    """What falcosidekick.yaml says."""
    return {"listenaddress": "127.0.0.1", "listenport": port, "debug": False, **outputs.tree}
