"""Which demo events there are. Pure: the same rules, seed and time give the same events."""

from __future__ import annotations

import random
import re
import shlex
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.events import DEMO_TAG, Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HOST_PREFIX: Final = "sib-demo-"
HOSTS: Final = tuple(f"{HOST_PREFIX}{name}" for name in ("web-1", "web-2", "db-1", "build-1"))
"""The hosts that do not exist."""

SPAN_SECONDS: Final = 2700
"""How far back the events reach: less than what Loki still takes of a stream."""

_FIELD: Final = re.compile(r"%([a-z][a-z0-9_.]*(?:\[[^\]\s]*\])?)")
_PATH: Final = re.compile(r"(?<![\w.=:/-])/[A-Za-z0-9_./-]+")
_STAGING: Final = ("standin ", "cp /bin/sh ", "cp -L ", "mkdir ", ": ", "#")
_TOOLS: Final = ("/usr/local/bin", "/dev/null", "/bin/sh", "/srv/job")
_TACTIC: Final = "mitre_"


@dataclass(frozen=True, slots=True)
class Template:
    """What a demo event of one rule is made of.

    Attributes:
        rule: its name.
        output: its template.
        priority: as written.
        tags: as written.
        act: what its drill does, as shell; empty where it has none.
    """

    rule: str
    output: str
    priority: str
    tags: tuple[str, ...]
    act: str


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """One event line of one demo host, and when it is said to have happened."""

    host: str
    time_ns: int
    line: bytes


def tactics(template: Template) -> tuple[str, ...]:
    """The ATT&CK tactics that a rule is tagged with."""
    return tuple(tag.removeprefix(_TACTIC) for tag in template.tags if tag.startswith(_TACTIC))


def quick(templates: Iterable[Template]) -> list[Template]:
    """One rule a tactic: the gravest of each, in the order of their names."""
    best: dict[str, Template] = {}
    for template in sorted(templates, key=lambda one: (_severity(one), one.rule)):
        for tactic in tactics(template)[:1]:
            best.setdefault(tactic, template)
    return [best[tactic] for tactic in sorted(best)]


def make_events(templates: Sequence[Template], *, seed: int, now_ns: int) -> list[DemoEvent]:
    """Events of all rules, spread over the hosts and the time before now, oldest first.

    Args:
        templates: one event each, a common rule's more than a grave one's.
        seed: for everything that is drawn.
        now_ns: nanoseconds since 1970 UTC.
    """
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    events = []
    for template in templates:
        for _ in range(1 if _severity(template) <= _GRAVE else draw.randint(1, 3)):
            host = draw.choice(HOSTS)
            time_ns = now_ns - draw.randrange(SPAN_SECONDS * 10**9)
            events.append(DemoEvent(host, time_ns, _line(template, host, time_ns, draw)))
    return sorted(events, key=lambda event: event.time_ns)


_GRAVE: Final = Priority.CRITICAL.severity


def _severity(template: Template) -> int:
    priority = Priority.parse(template.priority)
    return priority.severity if priority is not None else Priority.DEBUG.severity


def _line(template: Template, host: str, time_ns: int, draw: random.Random) -> bytes:
    values = _values(template, draw)
    fields: dict[str, str | int] = {"evt.time.iso8601": time_ns}
    for name in _FIELD.findall(template.output):
        fields[name] = values.get(name, "<NA>")
    text = _FIELD.sub(lambda match: str(fields[match[1]]), " ".join(template.output.split()))
    seconds, nanoseconds = divmod(time_ns, 10**9)
    second = datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    priority = Priority.parse(template.priority) or Priority.NOTICE
    return msgspec.json.encode(
        {
            "hostname": host,
            "output": f"{second}.{nanoseconds:09d}+0000: {priority.value} {text}",
            "output_fields": dict(sorted(fields.items())),
            "priority": priority.value,
            "rule": template.rule,
            "source": "syscall",
            "tags": sorted({*template.tags, DEMO_TAG}),
            "time": f"{second}.{nanoseconds:09d}Z",
        }
    )


def _values(template: Template, draw: random.Random) -> Mapping[str, str | int]:
    words = _command(template.act)
    program = words[0].rpartition("/")[2]
    path = words[0] if words[0].startswith("/") else f"/usr/bin/{program}"
    served = "initial_access" in tactics(template) or template.act.startswith("as 33")
    user, uid, login = ("www-data", 33, -1) if served else draw.choice(_PEOPLE)
    parent, above = ("php-fpm8.2", "php-fpm8.2") if served else draw.choice(_PARENTS)
    command = " ".join([program, *words[1:]])
    paths = [one for one in _PATH.findall(template.act) if not one.startswith(_TOOLS)]
    pid = draw.randint(1200, 60_000)
    return {
        "user.name": user,
        "user.uid": uid,
        "user.loginuid": login,
        "proc.name": program[:15],
        "proc.exepath": path,
        "proc.cmdline": command,
        "proc.args": " ".join(words[1:]),
        "proc.pname": parent,
        "proc.pcmdline": "php-fpm8.2" if served else f"{parent} -l",
        "proc.aname[2]": above,
        "proc.cwd": "/var/www/html/" if served else "/root/",
        "proc.tty": 0 if served or parent != "bash" else 34816,
        "proc.pid": pid,
        "proc.vpid": pid,
        "proc.ppid": pid - draw.randint(1, 90),
        "fd.name": paths[-1] if paths else "/etc/passwd",
        "fs.path.name": paths[-1] if paths else "/etc/passwd",
        "fs.path.target": paths[-1] if paths else "/etc/passwd",
        "fs.path.source": paths[0] if paths else "/etc/passwd",
        "fd.sip": "203.0.113.77",
        "fd.sport": draw.choice((443, 4444, 8443)),
        "fd.cip": "192.0.2.10",
        "fd.cport": draw.randint(32_768, 60_999),
        "evt.type": "execve",
        "evt.res": "SUCCESS",
    }


_PEOPLE: Final = (("root", 0, 1000), ("deploy", 1000, 1000), ("root", 0, -1))
_PARENTS: Final = (("bash", "sshd"), ("sh", "cron"), ("python3", "systemd"))


def _command(act: str) -> list[str]:
    """The words of what a drill does at the end, its staging left out."""
    lines = [line.strip() for line in act.splitlines()]
    kept = [line for line in lines if line and not line.startswith(_STAGING)]
    for line in reversed(kept):
        with_words = line.partition(" >")[0].partition(" 2>")[0].partition(" || ")[0]
        try:
            words = shlex.split(with_words.rpartition(";")[2] or with_words)
        except ValueError:
            continue
        if words[:1] == ["as"]:
            words = words[2:]
        if words:
            return words
    return ["sh"]
