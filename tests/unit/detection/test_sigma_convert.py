# ruff: noqa: E501, RUF001 - a table row is one line; dashes are what is tested
from __future__ import annotations

import json
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from sigma.collection import SigmaCollection
from sigma.conditions import (
    ConditionFieldEqualsValueExpression,
    ConditionOR,
    ConditionValueExpression,
)
from sigma.conversion.state import ConversionState
from sigma.types import (
    CompareOperators,
    SigmaCompareExpression,
    SigmaExists,
    SigmaNumber,
    SigmaQueryExpression,
)

from sib_server.detection.sigma.collection import RuleFile, parse, read_files
from sib_server.detection.sigma.condition import And, Node, Or, check, negate, quote, render
from sib_server.detection.sigma.convert import Conversion, Target, convert_files
from sib_server.detection.sigma.errors import FalcoUnsupportedError, RuleRefusedError
from sib_server.detection.sigma.falco import FalcoBackend
from sib_server.detection.sigma.falco_rule import rules_document
from sib_server.detection.sigma.pipelines import VIEWS, linux_pipeline, views_of
from sib_server.detection.sigma.preview import compile_condition
from sib_server.detection.sigma.views import PROCESS_CREATION

PROCESS = {"product": "linux", "category": "process_creation"}
AUDITD = {"product": "linux", "service": "auditd"}
SYSLOG = {"product": "linux", "service": "syslog"}


def convert(detection: dict[str, Any], logsource: dict[str, str], **more: Any) -> Conversion:
    document = {"title": "A rule", "logsource": logsource, "detection": detection, **more}
    placeholders = document.pop("placeholders", {})
    (made,) = convert_files([RuleFile("r.yml", yaml.safe_dump(document))], placeholders)
    return made


def condition(detection: dict[str, Any], logsource: dict[str, str], **more: Any) -> str:
    made = convert(detection, logsource, **more)
    assert made.target is Target.FALCO, made.reason
    return str(made.documents[-1]["condition"])


def expression(detection: dict[str, Any], logsource: dict[str, str], **more: Any) -> str:
    made = convert(detection, logsource, **more)
    assert made.target is Target.LOGQL, made.reason
    return str(made.documents[0]["rules"][0]["expr"])


def one(item: Any) -> dict[str, Any]:
    return {"s": item, "condition": "s"}


STARTS = "evt.type in (execve, execveat) and evt.rawres = 0 and "


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"Image": "/bin/sh"}, 'tolower(proc.exepath) = "/bin/sh"'),
        ({"Image|cased": "/bin/Sh"}, 'proc.exepath = "/bin/Sh"'),
        ({"Image|endswith": ["/a", "/b"]}, 'tolower(basename(proc.exepath)) in ("a", "b")'),
        ({"Image|endswith": "/bin/a"}, 'tolower(proc.exepath) endswith "/bin/a"'),
        ({"Image|contains|all": ["x", "y"]}, 'tolower(proc.exepath) contains "x" and tolower(proc.exepath) contains "y"'),
        ({"Image": "/x/*/a?"}, 'tolower(proc.exepath) glob "/x/*/a?"'),
        ({"Image": "/x/\\*\\?"}, 'tolower(proc.exepath) = "/x/*?"'),
        ({"Image": "/x\\\\"}, 'tolower(proc.exepath) glob "/x[\\\\\\\\]"'),
        ({"CommandLine|contains": "A b"}, 'tolower(proc.exeline) contains "a b"'),
        ({"CommandLine|windash|contains": " -x"}, 'tolower(proc.exeline) contains anyof (" -x", " /x", " –x", " —x", " ―x")'),
        ({"CommandLine|base64offset|contains": "foobar"}, 'tolower(proc.exeline) contains anyof ("zm9vymfy", "zvb2jhc", "mb29iyx")'),
        ({"CommandLine|wide|base64|contains": "ab"}, 'tolower(proc.exeline) contains "yqbiaa=="'),
        ({"CommandLine|re": "a.{2,}b"}, None),
        ({"User": "root"}, 'tolower(user.name) = "root"'),
        ({"LogonId": 0}, "user.uid = 0"),
        ({"CurrentDirectory": "/tmp"}, 'tolower(proc.cwd) = "/tmp/"'),
        ({"ProcessId|gte": 100}, "proc.pid >= 100"),
        ({"ProcessId|lt": 100}, "proc.pid < 100"),
        ({"Image|exists": True}, "proc.exepath exists"),
        ({"Image|exists": False}, "not (proc.exepath exists)"),
        ({"User": None}, "not (user.name exists)"),
        ({"Image|fieldref": "ParentImage"}, "tolower(proc.exepath) = tolower(proc.pexepath)"),
        ({"Image|fieldref|endswith": "ProcessName"}, "tolower(proc.exepath) endswith tolower(proc.name)"),
        (["key"], 'tolower(proc.exeline) contains "key"'),
        (["*k*y*"], 'tolower(proc.exeline) glob "*k*y*"'),
        ([5], 'tolower(proc.exeline) contains 5'),
        ({"|re": "k[ey]"}, None),
        ({"EventID": 1, "User": "a"}, 'tolower(user.name) = "a"'),
        ([{"User": "a"}, {"LogonId": 5, "User": "b"}], 'tolower(user.name) = "a" or (user.uid = 5 and tolower(user.name) = "b")'),
        ({"Image|startswith": ["/a/", "/b/", "/c/", "/d/"]}, 'tolower(proc.exepath) pmatch ("/a", "/b", "/c", "/d") and not (tolower(proc.exepath) in ("/a", "/b", "/c", "/d"))'),
        ({"User|neq": "root"}, 'not (tolower(user.name) = "root")'),
    ],
)  # fmt: skip
def test_comparisons(item: Any, expected: str | None) -> None:
    text = condition(one(item), PROCESS)
    compile_condition(text)
    if expected is not None:
        assert text.removeprefix(STARTS).strip("()") == expected.strip("()")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"Hashes|contains": "MD5=x"}, "no hash"),
        ({"OriginalFileName": "x"}, "version resource"),
        ({"Nonsense": "x"}, "Nonsense is not known"),
        ({"CommandLine|wide": "ab"}, "NUL"),
        ({"CommandLine|re": "a(?=b)"}, "no form in Falco"),
        ({"CommandLine|expand": "%admins%"}, "placeholder %admins%"),
        ({"ProcessId|minute": 5}, "no part of a time"),
        ({"CommandLine|cidr": "10.0.0.0/8"}, "network"),
        ({"User|gt": 5}, "comparison > 5"),
        ({"EventID": 5}, "no event of this log source"),
    ],
)
def test_refusals_say_why(item: Any, reason: str) -> None:
    made = convert(one(item), PROCESS)
    assert made.target is Target.NONE
    assert made.output == ""
    assert reason in str(made.reason)


WEB = {"category": "webserver"}


@pytest.mark.parametrize(
    ("item", "logsource", "parts"),
    [
        # One value that stands for several is each of them, also without a field.
        ({"|windash|contains": "-x"}, SYSLOG, ["(?is:-x)|(?is:/x)"]),
        ({"|base64offset|contains": "foobar"}, SYSLOG, ["(?is:Zm9vYmFy)|(?is:Zvb2Jhc)"]),
        ({"|windash|contains": "-x"}, PROCESS, ['contains anyof ("-x", "/x"']),
        # An expression's flags count without a field, too.
        ({"|re|i": "Foo.x"}, PROCESS, ["tolower(proc.exeline) regex", "foo.x"]),
        # A line with `-` for a number must not fail the query, as `sc_bytes>10` would.
        (
            {"sc-bytes|gte": 10},
            WEB,
            ['eq (count "^-?[0-9]{1,15}', "ge (float64 .sc_bytes) 10.0", "sigma_0=~`1`"],
        ),
        (
            {"c-uri|fieldref|endswith": "cs-referer"},
            WEB,
            ["if and .c_uri .cs_referer", "hasSuffix (lower .cs_referer) (lower .c_uri)"],
        ),
        ({"c-ip|cidr": "2001:db8::/32"}, WEB, ['c_ip=ip("2001:db8::/32")']),
        ({"cs-referer|exists": False}, WEB, ['cs_referer=""']),
        ({"sc-status": 200}, WEB, ["sc_status=~`200`"]),
    ],
)
def test_what_values_and_comparisons_stand_for(
    item: Any, logsource: dict[str, str], parts: list[str]
) -> None:
    made = convert(one(item), logsource)
    assert made.reason is None
    text = str(
        made.documents[-1].get("condition") or made.documents[0].get("rules", [{}])[0].get("expr")
    )
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"c-uri|minute": 5}, "no part of a time"),
        ({"c-uri|fieldref": "nope"}, "no field nope"),
        ({"c-uri|re|expand": "%x%"}, "placeholder %x%"),
    ],
)
def test_what_log_lines_cannot_be_asked_is_refused(item: Any, reason: str) -> None:
    assert reason in str(convert(one(item), WEB).reason)


MODIFIERS = (
    *("all", "base64", "base64offset", "cased", "cidr", "contains", "endswith", "exists"),
    *("expand", "fieldref", "gt", "gte", "i", "lt", "lte", "m", "minute", "neq", "re", "s"),
    *("startswith", "utf16", "utf16be", "wide", "windash"),
)


@given(
    name=st.sampled_from(["", "CommandLine", "Image", "LogonId", "c-uri", "sc-bytes"]),
    modifiers=st.lists(st.sampled_from(MODIFIERS), max_size=3),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["-x", "10.0.0.0/8", "%x%", "Image", "c-uri", "a*b", "a\\*", "(", "[a-z]+"])
    | st.lists(st.text(max_size=4), max_size=3),
    logsource=st.sampled_from([PROCESS, WEB, SYSLOG]),
)
# pySigma looks at the first letter of an expression that has none.
@example(name="", modifiers=["re", "contains"], value="", logsource=PROCESS)
@example(name="CommandLine", modifiers=["windash", "windash"], value="", logsource=PROCESS)
def test_any_comparison_is_converted_or_refused(
    name: str, modifiers: list[str], value: Any, logsource: dict[str, str]
) -> None:
    item = {"|".join([name, *modifiers]): value} if name or modifiers else [value]
    made = convert(one(item), logsource)
    text = made.output + str(made.reason)
    # Nothing of pySigma's own objects is taken for text, nor is a reason another one each time.
    assert "SigmaString(" not in made.output
    assert "SpecialChars" not in made.output
    assert " at 0x" not in text
    assert (made.target is Target.NONE) is (made.reason is not None)
    assert convert(one(item), logsource) == made


def test_placeholders_are_filled_from_a_file() -> None:
    text = condition(one({"User|expand": "%admins%"}), PROCESS, placeholders={"admins": ["a", "b"]})
    assert 'in ("a", "b")' in text
    line = expression(one(["x"]), SYSLOG, placeholders={"admins": ["a"]})
    assert "x" in line


def test_a_rule_is_dressed() -> None:
    identity = str(uuid.UUID(int=7))
    made = convert(
        one({"Image": [f"/opt/{n}" for n in range(9)]}), PROCESS, id=identity, level="critical",
        author="A 100% B", description="What\nit is", tags=["attack.t1059.004", "attack.credential-access", "cve.2021-1"],
        license="MIT",
    )  # fmt: skip
    listed, rule = made.documents
    assert listed["list"] == f"sigma_{'0' * 12}_1"
    assert listed["items"] == [f"/opt/{n}" for n in range(9)]
    assert listed["list"] in rule["condition"]
    assert rule["priority"] == "CRITICAL"
    assert rule["tags"] == [
        "T1059.004",
        "mitre_credential_access",
        "cve.2021-1",
        "sigma",
        f"sigma:{identity}",
    ]
    assert "author=A 100 percent  B" in rule["output"]
    assert "What it is" in rule["desc"]
    assert "DNS" not in rule["desc"]
    assert "Licence: MIT." in rule["desc"]
    assert yaml.safe_load(made.output) == [listed, rule]


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        ("informational", "INFORMATIONAL"),
        ("low", "NOTICE"),
        ("medium", "WARNING"),
        ("high", "ERROR"),
        (None, "WARNING"),
    ],
)
def test_levels_are_priorities(level: str | None, priority: str) -> None:
    more = {"level": level} if level else {}
    assert convert(one({"User": "a"}), PROCESS, **more).documents[-1]["priority"] == priority


def test_a_rule_about_a_file_covers_each_way_to_make_one() -> None:
    text = condition(
        one({"TargetFilename": "/etc/x"}), {"product": "linux", "category": "file_event"}
    )
    test = compile_condition(text)
    assert test(
        {"evt.type": "openat", "evt.is_open_write": "true", "fd.num": 3, "fd.name": "/etc/X"}
    )
    assert not test(
        {"evt.type": "openat", "evt.is_open_write": "false", "fd.num": 3, "fd.name": "/etc/x"}
    )
    assert test({"evt.type": "rename", "fs.path.target": "/etc/x", "fs.path.source": "/y"})
    assert not test({"evt.type": "rename", "fs.path.target": "/y", "fs.path.source": "/etc/x"})
    assert test({"evt.type": "symlink", "fs.path.source": "/etc/x"})


def test_a_rule_about_connections() -> None:
    network = {"product": "linux", "category": "network_connection"}
    event: dict[str, str | int] = {
        "evt.type": "connect",
        "fd.typechar": "4",
        "evt.res": "EINPROGRESS",
        "fd.sport": 4444,
        "fd.snet": "8.8.8.8",
    }
    test = compile_condition(
        condition(
            {
                "s": {"DestinationPort": [4444, 5555], "Initiated": "true"},
                "f": {"DestinationIp|cidr": "10.0.0.0/8"},
                "condition": "s and not f",
            },
            network,
        )
    )
    assert test(event)
    assert not test({**event, "fd.snet": "10.0.0.1"})
    assert not test({**event, "evt.res": "ECONNREFUSED"})
    both = condition(one({"DestinationPort": 22}), network)
    assert "accept" in both
    taken = condition(one({"DestinationPort": 22, "Initiated": "false"}), network)
    assert "connect" not in taken
    looked_up = convert(one({"DestinationHostname": "a.example"}), network).documents[-1]
    assert "sendto" in looked_up["condition"]
    assert "seen as the DNS query" in looked_up["desc"]
    mixed = convert(one({"DestinationHostname": "a.example", "DestinationPort": 5}), network)
    assert "never both" in str(mixed.reason)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"type": "EXECVE", "a0": "cp", "a1|startswith": "/"},
            'evt.type in (execve, execveat) and evt.rawres = 0 and tolower(proc.exe) = "cp" and tolower(proc.args[0]) startswith "/"',
        ),
        (
            {"type": "EXECVE", "a2": "*"},
            "evt.type in (execve, execveat) and evt.rawres = 0 and proc.cmdnargs > 1",
        ),
        (
            {"a1|startswith": "--cpu"},
            'evt.type in (execve, execveat) and evt.rawres = 0 and tolower(proc.args[0]) startswith "--cpu"',
        ),
        ({"type": "SYSCALL", "SYSCALL": "mknod"}, "evt.type = mknod"),
        (
            {"type": "SYSCALL", "SYSCALL": "mknod", "success": "no"},
            "evt.type = mknod and not (evt.rawres >= 0)",
        ),
        (
            {"type": "SYSCALL", "exe|endswith": "/useradd"},
            'evt.type in (execve, execveat) and evt.rawres = 0 and tolower(basename(proc.exepath)) = "useradd"',
        ),
        (
            {"type": "ADD_USER"},
            'evt.type in (execve, execveat) and evt.rawres = 0 and tolower(basename(proc.exepath)) in ("useradd", "newusers", "luseradd")',
        ),
        ({"type": "PATH", "nametype": "DELETE", "name": "/x"}, None),
    ],
)
def test_audit_records_are_system_calls(item: Any, expected: str | None) -> None:
    text = condition(one(item), AUDITD)
    assert expected in (None, text)


def test_a_path_record_is_any_act_on_the_name() -> None:
    every = compile_condition(condition(one({"type": "PATH", "name": "/x"}), AUDITD))
    events: list[dict[str, str | int]] = [
        {
            "evt.type": "open",
            "fd.num": 3,
            "fd.name": "/x",
            "evt.is_open_create": "false",
            "evt.is_open_write": "false",
        },
        {"evt.type": "unlinkat", "fs.path.name": "/x"},
        {"evt.type": "chmod", "fs.path.name": "/x"},
        {"evt.type": "rename", "fs.path.target": "/x", "fs.path.source": "/y"},
        {"evt.type": "rename", "fs.path.target": "/y", "fs.path.source": "/x"},
        {"evt.type": "execve", "evt.rawres": 0, "proc.exepath": "/x"},
    ]
    assert all(every(event) for event in events)
    created = compile_condition(
        condition(one({"type": "PATH", "name": "/x", "nametype": "CREATE"}), AUDITD)
    )
    assert [created(event) for event in events] == [False, False, False, True, False, False]
    watched = {**AUDITD, "definition": "Required:\n-w /x -p wa -k thing\nnot 'closed"}
    writes = compile_condition(condition(one({"type": "PATH", "name": "/x"}), watched))
    assert [writes(event) for event in events] == [False, True, True, True, True, False]


def test_a_key_is_what_the_quoted_audit_rules_say() -> None:
    definition = (
        "-w /bin/nc -p x -k tools\n-w /etc/x/ -p wa -k tools\n"
        "-a always,exit -F arch=b64 -S execve,execveat -F euid=33 -F success=1 -F key=www\n"
        "-a always,exit -F arch=b32 -S open -F path=/y -k www\n"
        "-a always,exit -S open -F a2=5 -k odd\n-a always,exit -F dir=/x -k none\n-S x -k ignored\n"
        "-a always,exit -S open -F !x -k odd2"
    )
    source = {**AUDITD, "definition": definition}
    tools = compile_condition(condition(one({"key": "tools"}), source))
    assert tools({"evt.type": "execve", "evt.rawres": 0, "proc.exepath": "/usr/bin/nc"})
    assert not tools({"evt.type": "execve", "evt.rawres": 0, "proc.exepath": "/usr/bin/curl"})
    assert tools({"evt.type": "unlink", "fs.path.name": "/etc/x/y"})
    www = compile_condition(condition(one({"key": "WWW"}), source))
    assert www({"evt.type": "execve", "user.uid": 33, "evt.rawres": 0})
    assert www({"evt.type": "open", "fd.name": "/y"})
    known = condition(one({"type": "SYSCALL", "exe": "/x", "key": "network_connect_4"}), AUDITD)
    assert "evt.type = connect" in known
    for key, reason in (
        ("odd", "a2=5"),
        ("odd2", "!x"),
        ("none", "dir"),
        ("other", "does not quote"),
    ):
        assert reason in str(convert(one({"key": key}), source).reason) or key == "none"
    assert convert(one({"key": "none"}), source).target is Target.NONE


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"type": "TTY", "data|contains": "x"}, "only auditd writes a TTY record"),
        ({"type": "SYSCALL", "SYSCALL": "personality", "a0": 40000}, "arguments of a system call"),
        ({"type": "SYSCALL", "SYSCALL": "personality", "a0": "4*"}, "arguments of a system call"),
        ({"type": "SYSCALL", "syscall": 59}, "differs between machines"),
        ({"type": "SYSCALL", "uid": 0}, "effective user"),
        ({"type": "ADD_USER", "acct": "x"}, "not what it says"),
    ],
)
def test_records_that_falco_cannot_stand_for(item: Any, reason: str) -> None:
    assert reason in str(convert(one(item), AUDITD).reason)


def test_log_lines_go_to_loki() -> None:
    made = expression({"k": ["a*b", "c"], "n": ["d", "e"], "condition": "k and not n"}, SYSLOG)
    assert made == (
        'sum by (host) (count_over_time({source=~"journal|auth|cron|syslog"} '
        "|~ `(?is:a.*b)|(?is:c)` !~ `(?is:d)` !~ `(?is:e)` [5m])) > 0"
    )
    assert "identifier=~`(?i)sshd.*`" in expression(
        one(["x"]), {"product": "linux", "service": "sshd"}
    )
    everywhere = expression(one(["x"]), {"product": "linux"})
    assert "web-error" in everywhere
    assert "falco" not in everywhere


def test_keywords_that_line_filters_cannot_say_are_counted() -> None:
    both = {"k": ["x"], "n": {"|all": ["p`", 'q"\\']}, "condition": "k and not n"}
    made = expression(both, SYSLOG)
    assert "sigma_0>0 and (sigma_1<=0 or sigma_2<=0)" in made
    assert 'count "(?is:p\\\\x60)"' not in made
    nested = {f"k{n}": {"|all": [f"a{n}{m}" for m in range(4)]} for n in range(6)}
    assert "label_format" in expression({**nested, "condition": "1 of k*"}, SYSLOG)
    assert "|~ `5`" in expression(one([5]), SYSLOG)
    assert "!~" in expression({"a": {"|re": "(?i)x.*"}, "condition": "not a"}, SYSLOG)


def test_web_server_logs_have_fields() -> None:
    web = {"category": "webserver"}
    made = expression(
        one(
            {
                "cs-method": "GET",
                "c-uri|re": "(?i)/\\.\\.",
                "sc-status": 200,
                "cs-user-agent|cased|contains": "X",
            }
        ),
        web,
    )
    for part in (
        "cs_method=~`(?is:GET)`",
        "(?s:.*)(?i:/\\.\\.)(?s:.*)",
        "sc_status=~`200`",
        "(?s:.*X.*)",
    ):
        assert part in made
    assert "no field Nonsense" in str(convert(one({"Nonsense": "x"}), web).reason)
    assert "web-error" in expression(one(["x"]), {"service": "nginx"})


def test_a_service_that_stops_is_told_by_the_journal() -> None:
    made = expression(one({"type": "SERVICE_STOP", "unit": ["ufw"]}), AUDITD)
    assert '{source="journal"} | identifier=~`systemd`' in made
    assert "service_unit=~`(?is:ufw)`" in made


@pytest.mark.parametrize(
    "logsource",
    [{"product": "windows", "category": "process_creation"}, {"product": "linux", "category": "dns_query"},
     {"product": "linux", "service": "nonsense"}, {"product": "aws"}, {"category": "antivirus"}, {"service": "sysmon"}],
)  # fmt: skip
def test_log_sources_that_sib_has_not(logsource: dict[str, str]) -> None:
    assert "have no log source" in str(convert(one({"Image": "x"}), logsource).reason)


BASE = """
title: Failed login
name: failed
logsource: {product: linux, service: sshd}
detection: {k: ['Failed password'], condition: k}
---
title: Shell
name: shell
logsource: {product: linux, category: process_creation}
detection: {s: {'Image|endswith': /sh}, condition: s}
---
title: Web
name: web
logsource: {category: webserver}
detection: {s: {sc-status: 401}, condition: s}
---
title: Correlation
correlation:
"""


def correlate(text: str) -> Conversion:
    indented = "\n".join(f"  {line}" for line in text.strip().splitlines())
    return convert_files([RuleFile("c.yml", BASE + indented)])[-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "type: event_count\nrules: [failed]\ngroup-by: [host]\ntimespan: 5m\ncondition: {gte: 10}",
            'sum by (host) (label_replace(sum by (host) (count_over_time({source=~"auth|journal|syslog"} | identifier=~`(?i)sshd.*` |~ `(?is:Failed password)` | host!="" [5m])), "sigma_rule", "1", "", "")) >= 10',
        ),
        (
            "type: value_count\nrules: [web]\ngroup-by: [Computer]\ntimespan: 1h\ncondition: {gt: 3, field: c-ip}",
            None,
        ),
        (
            "type: temporal\nrules: [failed, shell]\ngroup-by: [host]\ntimespan: 10m\ncondition: {gte: 2}",
            None,
        ),
        (
            "type: temporal\nrules: [web, shell]\naliases: {who: {web: cs-username, shell: User}}\ngroup-by: [who]\ntimespan: 10m\ncondition: {eq: 2}",
            None,
        ),
        ("type: event_count\nrules: [shell]\ntimespan: 10m\ncondition: {gte: 2}", None),
    ],
)
def test_correlations_become_metric_queries(text: str, expected: str | None) -> None:
    made = correlate(text)
    assert made.target is Target.LOGQL, made.reason
    found = made.documents[0]["rules"][0]["expr"]
    assert expected in (None, found)
    if "aliases" in text:
        assert 'json who="output_fields[\\"user.name\\"]"' in found
        assert "label_format who=cs_username" in found
    if "shell" in text:
        assert '{source="syscall"} | rule="Shell"' in found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "type: event_count\nrules: [other]\ntimespan: 5m\ncondition: {gte: 1}",
            "not among the rules",
        ),
        (
            "type: event_count\nrules: [failed]\ntimespan: 5m\ncondition: {lt: 1}",
            "nothing happened",
        ),
        ("type: event_count\nrules: [failed]\ntimespan: 5m\ncondition: {neq: 1}", "no comparison"),
        ("type: event_count\nrules: [failed]\ntimespan: 5M\ncondition: {gte: 1}", "no range"),
        (
            "type: event_count\nrules: [failed]\ngroup-by: [User]\ntimespan: 5m\ncondition: {gte: 1}",
            "no field User",
        ),
        (
            "type: event_count\nrules: [shell]\ngroup-by: [Nope]\ntimespan: 5m\ncondition: {gte: 1}",
            "no field for Nope",
        ),
        (
            "type: temporal_ordered\nrules: [failed, shell]\ntimespan: 5m\ncondition: {gte: 2}",
            "TEMPORAL_ORDERED",
        ),
        (
            "type: value_count\nrules: [web]\ntimespan: 5m\ncondition: {gte: 1, field: [c-ip, c-uri]}",
            "one field",
        ),
        (
            "type: temporal\nrules: [failed, shell]\ntimespan: 5m\ncondition: failed and not shell",
            "condition over rules",
        ),
    ],
)
def test_correlations_that_logql_cannot_count(text: str, reason: str) -> None:
    made = correlate(text)
    assert made.target is Target.NONE
    assert reason in str(made.reason)


@pytest.mark.parametrize(
    ("category", "field", "counted"),
    [
        ("network_connection", "DestinationIp", "fd.sip"),
        ("file_event", "Image", "proc.exepath"),
        # Another Falco field for each way to make a file; one that the output does not print.
        ("file_event", "TargetFilename", None),
        ("process_creation", "ProcessName", None),
    ],
)
def test_only_fields_that_each_event_has_are_counted(
    category: str, field: str, counted: str | None
) -> None:
    text = (
        f"title: One\nid: {uuid.UUID(int=5)}\nname: one\n"
        f"logsource: {{product: linux, category: {category}}}\n"
        "detection: {s: {Image: /x}, condition: s}\n---\n"
        "title: C\ncorrelation: {type: value_count, rules: [one], group-by: [host], "
        f"timespan: 5m, condition: {{gte: 2, field: {field}}}}}\n"
    )
    made = convert_files([RuleFile("c.yml", text)])[-1]
    if counted is None:
        assert "or not each of them" in str(made.reason)
        return
    found = made.documents[0]["rules"][0]["expr"]
    assert f'output_fields[\\"{counted}\\"]' in found
    assert f"tags=~`(.*,)?sigma:{uuid.UUID(int=5)}(,.*)?`" in found


def test_a_rule_that_only_a_correlation_uses_raises_no_alert() -> None:
    text = BASE + "  {type: event_count, rules: [failed], timespan: 5m, condition: {gte: 1}}"
    made = convert_files([RuleFile("c.yml", text)])
    assert [one.silent for one in made] == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "not a mapping"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("[" * 100, "nested too deep"),
        ("", "no rule in the file"),
        ("title: x", "Sigma"),
        ("title: x\nlogsource: 5\ndetection: 7", ""),
        ("title: x\nlogsource: {product: linux}\ndetection: {condition: a}", ""),
        (
            "title: x\nlogsource: {product: linux}\nfilter: {rules: any, s: {User: x}, condition: s}",
            "filter",
        ),
        ("title: [x]\ncorrelation: 5", ""),
        (
            "title: C\ncorrelation: {type: event_count, rules: [a], timespan: 1m, condition: null}",
            "",
        ),
        (
            "title: C\ncorrelation:\n  {type: event_count, rules: [{a: b}], timespan: 1m,"
            " condition: {gte: 1}}",
            "",
        ),
        ("{}", ""),
    ],
)
def test_what_is_no_rule_is_refused(text: str, reason: str) -> None:
    found = convert_files([RuleFile("r.yml", text), RuleRefusedError("z.yml", "", "too large")])
    assert {one.target for one in found} == {Target.NONE}
    assert reason in str(found[0].reason)
    assert found[-1].reason == "too large"


@pytest.mark.parametrize("logsource", [PROCESS, SYSLOG])
def test_a_condition_without_end_is_refused(logsource: dict[str, str]) -> None:
    item: Any = {"User": "a"} if logsource is PROCESS else ["a"]
    made = convert({"s": item, "condition": "not " * 3000 + "s"}, logsource)
    assert "nested" in str(made.reason)


def test_rules_without_an_id_get_one_that_stays() -> None:
    first, again = (convert(one({"User": "a"}), PROCESS) for _ in range(2))
    assert first.id == again.id == str(uuid.UUID(first.id))
    assert json.loads(json.dumps(first.row()))["target"] == "falco"


def test_the_backend_works_as_any_other() -> None:
    text = yaml.safe_dump({"title": "T", "logsource": PROCESS, "detection": one({"User": "a"})})
    twice = SigmaCollection.merge(
        [SigmaCollection.from_yaml(text), SigmaCollection.from_yaml(text)]
    )
    names = [
        item.get("rule")
        for item in yaml.safe_load(FalcoBackend(linux_pipeline()).convert(twice, "rules"))
    ]
    assert names == [None, "T", "T (1)"]
    (plain,) = FalcoBackend(linux_pipeline()).convert(SigmaCollection.from_yaml(text))
    assert plain == 'evt.type in (execve, execveat) and evt.rawres = 0 and tolower(user.name) = "a"'
    collecting = FalcoBackend(linux_pipeline(), collect_errors=True)
    bad = yaml.safe_dump(
        {"title": "T", "logsource": {"product": "x"}, "detection": one({"User": "a"})}
    )
    assert (
        collecting.convert(
            SigmaCollection.from_yaml(
                bad
                + "---\n"
                + BASE
                + "  {type: event_count, rules: [failed], timespan: 5m, condition: {gte: 1}}"
            )
        )
        is not None
    )
    assert len(collecting.errors) == 4
    with pytest.raises(FalcoUnsupportedError):
        FalcoBackend(linux_pipeline()).convert(
            SigmaCollection.from_yaml(
                BASE.replace("sshd", "auditd").replace("['Failed password']", "{type: PATH}")
                + "  {type: event_count, rules: [shell], timespan: 5m, condition: {gte: 1}}"
            )
        )
    with pytest.raises(FalcoUnsupportedError):
        views_of("nonsense", SigmaCollection.from_yaml(text).rules[0])  # type: ignore[arg-type]
    assert VIEWS == "falco_views"


def test_conditions_are_written_as_falco_reads_them() -> None:
    a, b = check("x.a", "=", "1"), check("x.b", "=", 'q"\\q')
    assert render(Or((And((a, b)), negate(Or((a, b)))))) == (
        '(x.a = 1 and x.b = "q\\"\\\\q") or not (x.a = 1 or x.b = "q\\"\\\\q")'
    )
    assert negate(negate(a)) == a
    for impossible in (And(()), Or(())):
        with pytest.raises(ValueError, match="always"):
            render(impossible)
    deep: Node = a
    for number in range(20):
        deep = And((b, Or((check("x.c", "=", str(number)), deep))))
    with pytest.raises(ValueError, match="nested deeper"):
        render(deep)
    for value in ("a\0", "a\\"):
        with pytest.raises(ValueError, match="no Falco string"):
            quote(value)
    assert rules_document([]).startswith("- required_engine_version")


CORPUS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "sigma-linux"
REFUSED = {
    "ASLR Disabled Via Sysctl or Direct Syscall - Linux",
    "Clear or Disable Kernel Ring Buffer Logs via Syslog Syscall",
    "Linux Keylogging with Pam.d",
}


def test_sigmahqs_linux_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    corpus = (
        Path(__import__("os").environ.get("SIB_SHARED", CORPUS.parents[1])) / "data" / "sigma-linux"
    )
    if not corpus.is_dir():
        pytest.skip("SigmaHQ's Linux rules not found: set SIB_SHARED")

    def no_network(*_: object) -> None:
        raise AssertionError("the network was used")

    # pySigma would fetch ATT&CK data and cache it as pickles in the home directory.
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    begun = time.process_time()
    made = convert_files(read_files([corpus]))
    assert time.process_time() - begun < 3
    assert not list(tmp_path.iterdir())
    assert {one.title for one in made if one.target is Target.NONE} == REFUSED
    assert len(made) == 210
    for conversion in made:
        if conversion.target is Target.FALCO:
            lists = {d["list"]: d["items"] for d in conversion.documents if "list" in d}
            compile_condition(str(conversion.documents[-1]["condition"]), lists)


def test_parse_gives_the_documents() -> None:
    assert parse(RuleFile("x", "a: 1\n---\nb: 2\n---\n")) == [{"a": 1}, {"b": 2}]


def test_queries_of_other_products_and_comparisons_of_no_number_are_refused() -> None:
    backend = FalcoBackend(linux_pipeline())
    state = ConversionState(processing_state={"falco_view": PROCESS_CREATION[0]})
    query = SigmaQueryExpression("lookup({field}, {id})", "x")
    for asked in (
        ConditionFieldEqualsValueExpression("User", query),
        ConditionValueExpression(query),
    ):
        with pytest.raises(FalcoUnsupportedError, match="another product"):
            backend.convert_condition(asked, state)
    odd = SigmaCompareExpression(SigmaNumber(1), CompareOperators.NEQ)
    with pytest.raises(FalcoUnsupportedError, match="not one with a number"):
        backend.convert_condition(ConditionFieldEqualsValueExpression("ProcessId", odd), state)
    present = ConditionFieldEqualsValueExpression("User", SigmaExists(exists=True))
    absent = backend.convert_condition_field_not_exists(present, state)
    assert absent == negate(backend.convert_condition(present, state))
    choice = ConditionOR([present, present])
    assert negate(backend.convert_condition_as_in_expression(choice, state)) == absent
