# ruff: noqa: E501, S310 - a settings file; loopback only
"""The real Loki over made log lines: each event is one line of a host of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sigma.rule import SigmaRule
from sigma.types import SigmaFieldReference

from sib_server.detection.sigma.convert import Conversion, Target
from tests.sigma_proof.generate import KEYWORDS, fill, holds, plans
from tests.sigma_proof.reference import sqlite_judge

DEADLINE_S = 90.0
_IDENTIFIERS = {"sshd": "sshd-session", "cron": "CRON", "sudo": "sudo"}
_SOURCES = {"sshd": "auth", "sudo": "auth", "cron": "cron", "clamav": "clamav", "vsftpd": "ftp"}


@dataclass
class Line:
    """One log line and what it says in Sigma's fields."""

    rule: Conversion
    host: str
    source: str
    identifier: str
    text: str
    fields: dict[str, str]
    kind: str
    reference: bool = False
    tree: bool = False


def loki_program() -> Path | None:
    """The engine, where there is one (SIB_COMPONENTS)."""
    base = os.environ.get("SIB_COMPONENTS")
    found = Path(base) / "loki" / "loki" if base else None
    return found if found and found.is_file() else None


def _port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def loki(ruler_file: str | None = None) -> Iterator[str]:
    """A Loki of our own on loopback; its base address."""
    program = loki_program()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="sib-loki-") as name:
        folder, port, grpc = Path(name), _port(), _port()
        rules = folder / "rules" / "fake"
        rules.mkdir(parents=True)
        if ruler_file is not None:
            (rules / "sigma.yaml").write_text(ruler_file)
        settings = {
            "auth_enabled": False,
            "analytics": {"reporting_enabled": False},
            "server": {
                "http_listen_address": "127.0.0.1", "http_listen_port": port,
                "grpc_listen_address": "127.0.0.1", "grpc_listen_port": grpc, "log_level": "error",
            },
            "common": {
                "instance_addr": "127.0.0.1", "path_prefix": str(folder), "replication_factor": 1,
                "ring": {"kvstore": {"store": "inmemory"}},
                "storage": {"filesystem": {"chunks_directory": str(folder / "chunks"), "rules_directory": str(folder / "r")}},
            },
            "schema_config": {"configs": [{
                "from": "2024-01-01", "store": "tsdb", "object_store": "filesystem", "schema": "v13",
                "index": {"prefix": "index_", "period": "24h"},
            }]},
            "ruler": {
                "storage": {"type": "local", "local": {"directory": str(folder / "rules")}},
                "rule_path": str(folder / "scratch"), "enable_api": True,
                "ring": {"kvstore": {"store": "inmemory"}},
            },
            "limits_config": {"max_query_length": "721h", "allow_structured_metadata": True},
        }  # fmt: skip
        (folder / "loki.yaml").write_text(json.dumps(settings))
        address = f"http://127.0.0.1:{port}"
        with (folder / "log").open("wb") as log:
            running = subprocess.Popen(
                (program, f"-config.file={folder / 'loki.yaml'}"), stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + DEADLINE_S
            while True:
                with contextlib.suppress(OSError):
                    if urllib.request.urlopen(f"{address}/ready", timeout=5).status == 200:
                        break
                if time.monotonic() > deadline or running.poll() is not None:
                    raise RuntimeError((folder / "log").read_text()[-2000:])
                time.sleep(0.5)
            yield address
        finally:
            running.terminate()
            running.wait(timeout=30)


def push(address: str, lines: list[Line], **metadata: str) -> None:
    """Ship the lines as Alloy would, with further structured metadata."""
    now = time.time_ns() - 30_000_000_000
    streams = [
        {
            "stream": {"source": line.source, "host": line.host},
            "values": [[str(now + number), line.text, {"identifier": line.identifier, **metadata}]],
        }
        for number, line in enumerate(lines)
    ]
    for start in range(0, len(streams), 200):
        body = json.dumps({"streams": streams[start : start + 200]}).encode()
        request = urllib.request.Request(
            f"{address}/loki/api/v1/push", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).read()


def hosts(address: str, expression: str) -> set[str]:
    """The hosts for which an alert's expression holds now."""
    return {one["metric"].get("host", "") for one in query(address, expression)}


def ruler_groups(address: str) -> set[str]:
    """The names of the groups that the ruler has loaded; it takes a while to begin."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(urllib.error.HTTPError):
            answer = urllib.request.urlopen(f"{address}/loki/api/v1/rules", timeout=30).read()
            read = yaml.safe_load(answer) or {}
            return {group["name"] for groups in read.values() for group in groups}
        if time.monotonic() > deadline:
            raise RuntimeError("the ruler has loaded no rules")
        time.sleep(1.0)


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """An instant query."""
    data = urllib.parse.urlencode({"query": expression}).encode()
    try:
        answer = urllib.request.urlopen(f"{address}/loki/api/v1/query", data, timeout=60).read()
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.read().decode()}: {expression}") from error
    found: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
    return found


def make(conversions: list[Conversion], each: int | None = None) -> list[Line]:
    """Lines for every rule that Loki judges."""
    lines: list[Line] = []
    for conversion in conversions:
        if conversion.target is not Target.LOGQL:
            continue
        (document,) = yaml.safe_load_all(conversion.source)
        if "detection" not in document:
            continue
        rule = SigmaRule.from_dict(document)
        service = rule.logsource.service or ""
        own: list[Line] = []
        for condition in rule.detection.parsed_condition:
            for wanted in plans(condition.parsed)[:each]:
                fields = _fields(wanted, rule)
                text = fields.pop("line")
                own.append(
                    Line(
                        conversion,
                        f"h{len(lines) + len(own)}",
                        "web"
                        if rule.logsource.category == "webserver"
                        else _SOURCES.get(service, "journal"),
                        "systemd" if "unit" in fields else _IDENTIFIERS.get(service, "program"),
                        text,
                        fields,
                        wanted.kind,
                    )
                )
        said = sqlite_judge(document, [line.fields for line in own])
        for line, reference in zip(own, said, strict=True):
            line.reference = reference
            line.tree = any(holds(c.parsed, line.fields) for c in rule.detection.parsed_condition)
        lines += own
    return lines


def _fields(wanted: Any, rule: Any) -> dict[str, str]:
    asked: dict[str, list[Any]] = {}
    same = False
    for wish in wanted.wishes:
        if isinstance(wish.value.value, SigmaFieldReference):
            # In the rules that are tried, a path is compared with the referrer.
            same = wish.holds
            continue
        asked.setdefault(wish.field, []).append(wish)

    def text(name: str, base: str, joiners: tuple[str, ...] = ("", "-")) -> str:
        return fill(asked[name], base, joiners, wanted.kind) if name in asked else base

    if rule.logsource.service == "auditd":
        unit = text("unit", "other").replace(" ", "")
        record = text("type", "SERVICE_STOP")
        stops = record.upper() == "SERVICE_STOP"
        line = (
            f"{unit}.service: Deactivated successfully." if stops else f"Reloading {unit}.service"
        )
        return {"type": record, "unit": unit, "line": line}
    if rule.logsource.category == "webserver":
        web = {
            "c-ip": text("c-ip", "192.0.2.1"),
            "cs-method": text("cs-method", "GET"),
            "sc-status": text("sc-status", "404"),
            "cs-user-agent": text("cs-user-agent", "curl/8"),
            "cs-referer": text("cs-referer", "-"),
            "cs-username": "-",
        }
        # `-` stands for no number; Loki must not fail for it.
        size = text("sc-bytes", "-")
        if size != "-":
            web["sc-bytes"] = size
        stem = text("cs-uri-stem", "/a")
        queried = text("cs-uri-query", "")
        uri = text("c-uri", stem + (f"?{queried}" if queried else "")).replace(" ", "%20")
        web["c-uri"], web["cs-uri-stem"] = uri, uri.split("?")[0]
        web["cs-uri-query"] = uri.split("?", 1)[1] if "?" in uri else ""
        if same:
            stem = web["cs-uri-stem"]
            web["cs-referer"] = stem.swapcase() if wanted.kind == "case" else stem
        line = (
            f'{web["c-ip"]} - - [25/Nov/2026:01:00:00 +0000] "{web["cs-method"]} {uri} HTTP/1.1" '
            f'{web["sc-status"]} {size} "{web["cs-referer"]}" "{web["cs-user-agent"]}"'
        )
        if KEYWORDS in asked and "f" in asked:
            line += text(KEYWORDS, "")
        return {**web, KEYWORDS: line, "line": line}
    line = text(KEYWORDS, "line", (" ", "", " x "))
    return {KEYWORDS: line, "line": line}


def judge(conversions: list[Conversion], each: int | None = None) -> list[tuple[Line, bool]]:
    """Judge the lines of all rules by Loki."""
    lines = make(conversions, each)
    by_rule: dict[str, list[Line]] = {}
    for line in lines:
        by_rule.setdefault(line.rule.id, []).append(line)
    with loki() as address:
        push(address, lines)
        settled(address, len(lines))
        judged = []
        for own in by_rule.values():
            expression = own[0].rule.documents[0]["rules"][0]["expr"]
            found = hosts(address, expression)
            judged += [(line, line.host in found) for line in own]
    return judged


def settled(address: str, count: int) -> None:
    """Wait until Loki answers with all lines."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        seen = query(address, 'sum(count_over_time({source=~".+"}[10m]))')
        if seen and int(seen[0]["value"][1]) >= count:
            return
        time.sleep(0.5)
    raise RuntimeError("Loki has not taken all lines")
