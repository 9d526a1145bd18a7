"""What is fuzzed of detection: feeds, rules, drills, Sigma, bundles, backups."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sib_agent.bundles.engine import judge_validation
from sib_protocol.bundles.archive import ArchiveError, ArchiveLimits, pack, unpack
from sib_protocol.drills.parsing import parse_drills
from sib_server.detection.indicators.catalogue import built_in, find_feed
from sib_server.detection.indicators.extraction import observables_in, question_name
from sib_server.detection.indicators.formats.reader import read_feed
from sib_server.detection.indicators.formats.shape import Format, Shape
from sib_server.detection.indicators.formats.stix import parse_pattern
from sib_server.detection.indicators.kinds import recognise
from sib_server.detection.indicators.unpack import RefusedDownloadError
from sib_server.detection.indicators.unpack import unpack as unpack_feed
from sib_server.detection.rules.collect import Origin, SourceFile
from sib_server.detection.rules.compile import compiled, put_together
from sib_server.detection.rules.decisions import Decisions
from sib_server.detection.rules.items import MacroItem, RuleItem
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.sidecars import read_sidecars
from sib_server.detection.rules.sources import Sources
from sib_server.detection.rules.writing import write
from sib_server.detection.sigma.alerts import alert_event, parse_alerts
from sib_server.detection.sigma.collection import RuleFile
from sib_server.detection.sigma.convert import Target as SigmaTarget
from sib_server.detection.sigma.convert import convert_files
from sib_server.operations.backup.archive import ArchiveReader, write_archive
from sib_server.operations.backup.errors import ArchiveRefusedError
from sib_server.operations.backup.manifest import FORMAT, Entry, Manifest
from sib_server.operations.doctor.ruler import judge_ruler
from sib_server.stack.outputs import read_outputs
from sib_server.trial.feed import recorded_lines
from tests.fuzz.mutate import Target
from tests.fuzz.parsers import MALFORMED, MIB, bucket

ROOT = Path(__file__).resolve().parents[2]
FEEDS = ROOT / "tests/unit/detection/indicators/feeds"
RULES = ROOT / "rules/falco"
_RECORDS = 1000
_ARCHIVE = ArchiveLimits(packed=MIB, unpacked=MIB, file=MIB // 2, files=50)

SIGMA = b"""title: Fuzzed
id: 6f9619ff-8b86-4011-b42d-00c04fc964ff
status: test
logsource: {product: linux, category: process_creation}
detection:
  one: {Image|endswith: ['/nc', '/ncat'], CommandLine|contains|all: [' -e ', ' 1*']}
  two: [{CommandLine|re: 'a(b|c)+d', User: root}, {CommandLine|base64offset|contains: 'wget'}]
  condition: one and not 1 of two*
tags: [attack.execution, attack.t1059.004]
level: high
"""
SIGMA_MODIFIERS = b"""title: Every modifier
logsource: {product: linux, category: network_connection}
detection:
  a: {DestinationIp|cidr: ['10.0.0.0/8', '2001:db8::/32'], DestinationPort|gte: 1024}
  b: {Image|re|i: '/tmp/.*\\.sh$', User|exists: true, ParentImage|fieldref: Image}
  c: {CommandLine|windash|contains: [' -enc ', ' -e '], CommandLine|cased|startswith: 'A?c*\\*d'}
  d: {CommandLine|wide|base64offset|contains: 'x', CommandLine: null, CurrentDirectory|neq: ''}
  condition: (a or not b) and (1 of c* or all of d*)
"""
SIGMA_CORRELATION = b"""title: Base
name: base
logsource: {product: linux, service: auth}
detection: {keywords: ['Failed password'], condition: keywords}
---
title: Many
correlation:
  type: value_count
  rules: [base]
  group-by: [host]
  timespan: 10m
  condition: {gte: 5, field: user}
"""
SIGMA_LOG = b"""title: Fuzzed log
logsource: {product: linux, service: sshd}
detection:
  keywords: ['Failed password', 'invalid user *']
  condition: keywords
level: low
"""


def detection_targets() -> list[Target]:
    """All targets, each with real inputs to begin with."""
    rules = [path.read_bytes() for path in sorted(RULES.glob("*.yaml"))]
    texts = [text[:12_000] for text in rules]
    lines = recorded_lines()
    return [
        *_feeds(),
        Target(
            "feed, packed", _packed_feed, (RefusedDownloadError,), [gzip.compress(b"1.2.3.4\n")]
        ),
        Target(
            "indicator",
            _indicator,
            (),
            [
                b"45.66.77.88",
                b"2a0e::1/64",
                b"hxxp://bad[.]example[.]net:80/a?b",
                b"a.b.example",
                b"0" * 40,
                b"xn--bcher-kva.example",
                b"1.2.3.4:80",
            ],
        ),
        Target(
            "STIX pattern",
            lambda data: bucket(len(parse_pattern(_text(data)) or ())),
            (),
            [
                b"[ipv4-addr:value = '1.2.3.4' OR domain-name:value = 'a.example']",
                b"[file:hashes.'SHA-256' = '" + b"0" * 64 + b"']",
            ],
        ),
        Target(
            "event's indicators", lambda data: bucket(len(observables_in(data))), (), lines[:40]
        ),
        Target(
            "DNS question",
            lambda data: question_name(_text(data)) is None,
            (),
            [
                b"\\x00\\x01\x03www\x03bad\x03net\x00",
                b"..www.bad.net..",
            ],
        ),
        Target("Falco condition", _condition, (ConditionError,), list(_conditions(rules))),
        Target("rules file", _rules, (), texts),
        Target("drill file", _drills, (), texts),
        Target("Sigma rule", _sigma, (), [SIGMA, SIGMA_LOG, SIGMA_MODIFIERS, SIGMA_CORRELATION]),
        Target("ruler's alerts", _alerts, MALFORMED, [_alert_page()]),
        Target(
            "ruler's rules",
            lambda data: judge_ruler({"x"}, data, ROOT).verdict,
            (),
            [_rule_page("ok"), _rule_page("err")],
        ),
        Target("bundle", _bundle, (ArchiveError,), [_packed()]),
        Target(
            "bundle's tar",
            lambda data: _bundle(gzip.compress(_summed(data), 1)),
            (ArchiveError,),
            [gzip.decompress(_packed()), _tar()],
        ),
        Target("Falco's verdict", _verdict, (), [_verdict_page()]),
        Target(
            "outputs.yaml",
            _outputs,
            (),
            [
                b"slack: {webhookurl: 'https://hooks.example/x', minimumpriority: warning}\n",
                b"webhook: {address: 'https://a.example', customheaders: {a: b}}\n",
            ],
        ),
        Target(
            "backup's tar",
            _backup,
            (ArchiveRefusedError,),
            [gzip.decompress(_packed()), _tar(), _backup_tar()],
        ),
    ]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _feeds() -> Iterator[Target]:
    shapes: dict[str, Shape] = {
        "feodo.csv": find_feed(built_in().feeds, "feodo").shape,
        "threatfox.csv": find_feed(built_in().feeds, "threatfox").shape,
        "blocklist-de.txt": find_feed(built_in().feeds, "blocklist-de").shape,
        "spamhaus-drop.jsonl": find_feed(built_in().feeds, "spamhaus-drop").shape,
        "hostfile.txt": Shape(format=Format.HOSTFILE),
        "misp.json": Shape(format=Format.MISP),
        "stix.json": Shape(format=Format.STIX),
    }
    for name, shape in shapes.items():
        yield Target(f"feed, {name}", _feed(shape), (), [(FEEDS / name).read_bytes()])


def _feed(shape: Shape) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        reading = read_feed(data, shape, max_records=_RECORDS)
        # A URL that names an address gives that, too.
        assert len(reading.records) <= _RECORDS + 1
        for record in reading.records:
            assert record.note.isprintable()
        return bucket(len(reading.records)), bucket(reading.rejected)

    return run


def _packed_feed(data: bytes) -> object:
    content = unpack_feed(data, MIB)
    assert len(content) <= MIB
    return bucket(len(content))


def _indicator(data: bytes) -> object:
    found = recognise(_text(data))
    if found is None:
        return None
    # What is kept is what is looked up: reading it again changes nothing.
    assert recognise(found.value) == found, found
    return found.kind, bucket(len(found.value))


def _observables(data: bytes) -> object:
    return bucket(len(observables_in(data)))


def _conditions(rules: list[bytes]) -> Iterator[bytes]:
    for content in rules:
        for item in read_items("x.yaml", content)[0]:
            if isinstance(item, RuleItem) and "condition" in item.texts:
                yield item.texts["condition"].value.encode()
            elif isinstance(item, MacroItem):
                yield item.condition.value.encode()


def _condition(data: bytes) -> object:
    condition = parse(_text(data))
    written = write(condition)
    assert write(parse(written)) == written
    return type(condition).__name__, bucket(len(written))


def _rules(data: bytes) -> object:
    items, findings = read_items("fuzz.yaml", data)
    entries, wrong = read_sidecars("fuzz.drills.yaml", data)
    source = SourceFile("fuzz.yaml", Origin.OWN, "fuzz", tuple(items))
    sources = Sources((source,), {}, tuple(entries), (*findings, *wrong), falco_known=False)
    found = compiled(put_together(sources, Decisions()))
    if not found.errors:
        for name, content in found.files.items():
            # What goes to hosts has to be read by them.
            assert not name.startswith("rules/") or not read_items(name, content)[1]
    return len(items), len(found.findings), len(found.files)


def _drills(data: bytes) -> object:
    drills, problems = parse_drills(_text(data), Path("fuzz.drills.yaml"))
    return len(drills), len(problems)


def _sigma(data: bytes) -> object:
    found = convert_files([RuleFile("fuzz.yml", _text(data))])
    for one in found:
        # Converted, or a reason: never neither.
        assert bool(one.output) is (one.target is not SigmaTarget.NONE)
        assert bool(one.reason) is (one.target is SigmaTarget.NONE)
        json.dumps(one.row())
    return tuple((one.target, (one.reason or "")[:40]) for one in found)


def _alert_page() -> bytes:
    labels = {"alertname": "A", "sigma_id": "x", "host": "web-1", "priority": "Warning"}
    alert = {
        "labels": labels,
        "annotations": {"summary": "s"},
        "state": "firing",
        "activeAt": "2026-11-25T08:00:00.123456789Z",
        "value": "1e+00",
    }
    return json.dumps({"status": "success", "data": {"alerts": [alert, alert]}}).encode()


def _alerts(data: bytes) -> object:
    alerts = parse_alerts(data)
    for alert in alerts:
        json.loads(alert_event(alert))
    return len(alerts)


def _rule_page(health: str) -> bytes:
    rule = {"name": "A", "labels": {"sigma_id": "x"}, "health": health, "lastError": "e"}
    return json.dumps({"data": {"groups": [{"rules": [rule]}]}}).encode()


def _packed() -> bytes:
    return pack({"rules/10-a.yaml": b"- list: a\n  items: [b]\n", "drills/a.drills.yaml": b"[]"})


def _tar() -> bytes:
    """As a hostile server would make one, with what no bundle has."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, target in (
            ("rules/a.yaml", tarfile.REGTYPE, ""),
            ("../../etc/cron.d/x", tarfile.REGTYPE, ""),
            ("rules/link", tarfile.SYMTYPE, "/etc/shadow"),
            ("rules/" + "x" * 200, tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return made.getvalue()


def _summed(data: bytes) -> bytes:
    """With the checksums of its headers right, or nothing behind them is ever reached."""
    made = bytearray(data)
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            header = data[at : at + 148] + b" " * 8 + data[at + 156 : at + 512]
            made[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(made)


def _bundle(data: bytes) -> object:
    files = unpack(data, _ARCHIVE)
    for name in files:
        parts = Path(name).parts
        assert not Path(name).is_absolute()
        assert ".." not in parts
    assert sum(map(len, files.values())) <= _ARCHIVE.unpacked
    # The same files make the same archive, whoever packed them.
    assert unpack(pack(files, _ARCHIVE), _ARCHIVE) == files
    return len(files)


def _verdict_page() -> bytes:
    result: dict[str, Any] = {"name": "/b/10-own.yaml", "successful": True, "errors": []}
    bad = {**result, "successful": False, "errors": [{"code": "LOAD_ERR", "message": "no field"}]}
    return b"Wed Nov 25 log\n" + json.dumps({"falco_load_results": [result, bad]}).encode()


def _verdict(data: bytes) -> object:
    reason = judge_validation(len(data) % 3 - 1, data, data, ["/b/10-own.yaml"])
    return reason is None or reason[:20]


def _outputs(data: bytes) -> object:
    found = read_outputs(data, Path("/etc/sib/outputs.yaml"))
    return len(found.enabled), len(found.findings)


def _backup_tar() -> bytes:
    content = b"listen: {port: 8443}\n"
    entry = Entry("config/server.yaml", len(content), hashlib.sha256(content).hexdigest(), 0o640)
    manifest = Manifest(FORMAT, "1", 1, "siem", "0" * 64, "0001", (entry,))
    return gzip.decompress(b"".join(write_archive(manifest, lambda _: io.BytesIO(content))))


def _backup(data: bytes) -> object:
    reader = ArchiveReader(io.BytesIO(gzip.compress(_summed(data), 1)))
    count = 0
    while reader.next_entry(lambda _chunk: None) is not None:
        count += 1
    return count
