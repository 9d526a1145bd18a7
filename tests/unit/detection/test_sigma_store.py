from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from sib_protocol.errors import ExitCode, FileAccessError
from sib_server.cli.sigma import sigma
from sib_server.detection.sigma import collection
from sib_server.detection.sigma.collection import RuleFile, read_files
from sib_server.detection.sigma.convert import Conversion, convert_files
from sib_server.detection.sigma.errors import CollectionError, RuleRefusedError, UnknownRuleError
from sib_server.detection.sigma.store import (
    SigmaStore,
    changes,
    falco_document,
    ruler_groups_document,
    stored,
)

IDS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(5)]


def rule(number: int, title: str = "T", **detection: object) -> str:
    logsource = {"product": "linux", "category": "process_creation"}
    if "keyword" in detection:
        logsource = {"product": "linux", "service": "sshd"}
        item: object = [detection["keyword"]]
    else:
        item = detection or {"User": "a"}
    return yaml.safe_dump(
        {
            "title": title,
            "id": IDS[number],
            "logsource": logsource,
            "detection": {"s": item, "condition": "s"},
        }
    )


def conversions(*texts: str) -> list[Conversion]:
    return convert_files([RuleFile(f"{n}.yml", text) for n, text in enumerate(texts)])


def test_rules_are_kept_by_their_id_and_documents_follow(tmp_path: Path) -> None:
    store = SigmaStore(tmp_path / "sigma")
    assert store.load() == {}
    added = store.put(
        conversions(rule(0), rule(1), rule(2, keyword="x"), rule(3, Hashes="x"), "broken: [")
    )
    assert [change.kind for change in added] == ["added"] * 4
    names = [item.get("rule") for item in yaml.safe_load(store.falco_file.read_text())]
    # Two rules of one title: Falco would take the second for a new version of the first.
    assert names == [None, "T", f"T ({IDS[1]})"]
    (group,) = yaml.safe_load(store.ruler_file.read_text())["groups"]
    assert group["name"] == f"sigma {IDS[2]}"
    assert store.put(conversions(rule(0))) == []

    (changed,) = store.put(conversions(rule(0, User="b")))
    assert (changed.kind, changed.id) == ("changed", IDS[0])
    assert any(line.startswith("+") and '"b"' in line for line in changed.difference)
    assert '"b"' in store.falco_file.read_text()

    # A rule that cannot be converted any more leaves nothing of its old output behind.
    store.put(conversions(rule(1, Hashes="x")))
    assert IDS[1] not in store.falco_file.read_text()
    with pytest.raises(UnknownRuleError) as unknown:
        store.remove([IDS[0], IDS[4]])
    assert unknown.value.rule_id == IDS[4]
    assert IDS[0] in store.load()
    store.remove([IDS[0], IDS[2]])
    assert yaml.safe_load(store.ruler_file.read_text()) == {"groups": []}
    store.falco_file.unlink()
    store.publish()
    assert len(yaml.safe_load(store.falco_file.read_text())) == 1


def test_a_correlations_part_alone_is_not_in_the_ruler(tmp_path: Path) -> None:
    (one,) = conversions(rule(0, keyword="x"))
    silent = stored(one).__class__(
        **{**{f: getattr(stored(one), f) for f in stored(one).__struct_fields__}, "silent": True}
    )
    assert yaml.safe_load(ruler_groups_document([silent])) == {"groups": []}
    assert falco_document([silent]).startswith("- required_engine_version")


def test_a_complete_set_shows_what_is_gone() -> None:
    old = {one.id: stored(one) for one in conversions(rule(0), rule(1))}
    found = changes(old, conversions(rule(0, title="New"), "broken: ["), complete=True)
    assert [(change.kind, change.id) for change in found] == [
        ("changed", IDS[0]),
        ("removed", IDS[1]),
    ]


def test_a_damaged_or_closed_store_says_so(tmp_path: Path) -> None:
    store = SigmaStore(tmp_path)
    store.put(conversions(rule(0)))
    next(store.rules.glob("*.json")).write_text("{")
    with pytest.raises(FileAccessError) as damaged:
        store.load()
    assert "import the rules again" in str(damaged.value.remedy)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError):
        SigmaStore(tmp_path / "file").put([])


def test_a_zip_is_read_in_memory_and_distrusted(tmp_path: Path) -> None:
    path = tmp_path / "release.zip"
    link = zipfile.ZipInfo("link.yml")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rules/a.yml", rule(0))
        archive.writestr("../evil.yml", rule(1))
        archive.writestr("/etc/evil.yml", rule(1))
        archive.writestr("big.yml", "#" * (collection.MAX_RULE_BYTES + 1))
        archive.writestr("latin.yml", b"\xff")
        archive.writestr("readme.md", "no rule")
        archive.writestr("rules/", "")
        archive.writestr(link, "/etc/passwd")
    found = list(read_files([path]))
    texts = {one.path.split("!")[1] for one in found if isinstance(one, RuleFile)}
    reasons = {
        one.path.split("!")[1]: one.reason for one in found if isinstance(one, RuleRefusedError)
    }
    assert texts == {"rules/a.yml"}
    assert "outside itself" in reasons["../evil.yml"]
    assert "outside itself" in reasons["/etc/evil.yml"]
    assert "larger than" in reasons["big.yml"]
    assert reasons["latin.yml"] == "not UTF-8 text"
    assert "link" in reasons["link.yml"]
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x03\x04") + 32 + len("rules/a.yml")] ^= 0xFF
    path.write_bytes(content)
    assert any(
        isinstance(one, RuleRefusedError) and "unreadable" in one.reason
        for one in read_files([path])
    )


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.yml", "a/1.yaml", ".git/x.yml", "a/.x.yml", "a/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rule(0))
    names = [Path(one.path).name for one in read_files([tmp_path])]
    assert names == ["1.yaml", "2.yml"]


@pytest.mark.parametrize("kind", ["pipe", "missing", "no zip", "too many", "too much", "huge zip"])
def test_paths_that_give_no_rules(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.yml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "no zip":
        path = tmp_path / "x.zip"
        path.write_text("no zip")
    elif kind == "huge zip":
        path = tmp_path / "x.zip"
        monkeypatch.setattr(collection, "MAX_ARCHIVE_BYTES", 3)
        path.write_text("long")
    elif kind != "missing":
        path.write_text(rule(0))
        monkeypatch.setattr(
            collection, {"too many": "MAX_FILES", "too much": "MAX_TOTAL_BYTES"}[kind], 0
        )
    with pytest.raises(CollectionError) as caught:
        list(read_files([path]))
    assert str(path) in caught.value.problem
    if kind == "missing":
        with pytest.raises(CollectionError):
            list(read_files([tmp_path / "missing.zip"]))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        sigma, [str(argument) for argument in arguments], catch_exceptions=False
    )


def test_the_commands(tmp_path: Path) -> None:
    rules, store = tmp_path / "rules", tmp_path / "store"
    rules.mkdir()
    (rules / "a.yml").write_text(rule(0, title="First"))
    (rules / "b.yml").write_text(rule(1, title="Second [x]", Hashes="y"))
    (rules / "c.yml").write_text(rule(2, title="Third", keyword="z"))

    lines = [json.loads(line) for line in run("convert", rules, "--json").output.splitlines()]
    assert [line["target"] for line in lines] == ["falco", "none", "logql"]
    assert set(lines[0]) == {"id", "title", "path", "target", "output", "reason"}
    assert lines[0]["reason"] is None
    assert "# Second [x]: none (Falco computes no hash" in run("convert", rules).output
    checked = run("check", rules)
    assert "3 rules: 1 to Falco, 1 to LogQL, 1 refused" in checked.output
    assert re.search(r"^RULE +TARGET  WHY NOT\nSecond \[x\]  none ", checked.output, re.MULTILINE)
    assert checked.exit_code == 0
    refused = json.loads(run("check", rules, "--json").stdout)
    assert set(refused) == {"id", "title", "path", "target", "reason"}
    assert refused["target"] == "none"
    assert run("check", rules, "--json", "--all").stdout.count("\n") == 3
    assert run("check", rules, "--strict", "--all").exit_code == ExitCode.INCOMPLETE
    assert run("check", rules / "a.yml", "--strict").exit_code == 0

    imported = run("import", rules, "--directory", store)
    assert "3 added" in imported.stdout
    assert imported.stderr == "why some were refused: sib-server sigma check\n"
    assert "no change" in run("import", rules, "--directory", store).output
    listed = [
        json.loads(line) for line in run("list", "--directory", store, "--json").output.splitlines()
    ]
    assert [line["title"] for line in listed] == ["First", "Second [x]", "Third"]
    assert f"{IDS[2]}  Third       logql" in run("list", "--directory", store).output

    (rules / "a.yml").write_text(rule(0, title="First", User="other"))
    (rules / "b.yml").write_text(rule(1, title="Second [x]"))
    (rules / "c.yml").unlink()
    shown = run("diff", rules, "--directory", store, "--complete").output
    assert f"changed {IDS[0]} First (falco)" in shown
    assert "(none -> falco)" in shown
    assert "(logql -> removed)" in shown
    assert '"other"' in shown
    row = json.loads(run("diff", rules, "--directory", store, "--json").output.splitlines()[0])
    assert (row["change"], row["old_target"]) == ("changed", "falco")
    assert "1 removed" in run("remove", IDS[2], "--directory", store).output


def test_placeholders_come_from_a_file(tmp_path: Path) -> None:
    rules, values = tmp_path / "a.yml", tmp_path / "v.yml"
    rules.write_text(rule(0, **{"User|expand": "%admins%"}))
    values.write_text("admins: [root, 7]")
    assert 'in ("root", 7)' in run("convert", rules, "--placeholders", values).output
    for wrong in ("[1]", "a: []", "a: 1", "{", "\xff"):
        values.write_bytes(wrong.encode("latin-1"))
        refused = run("convert", rules, "--placeholders", values)
        assert refused.exit_code == ExitCode.SETTINGS
        assert re.match(r"error: .*(YAML|mapping|UTF-8)", refused.stderr)
    values.write_text("")
    assert "none" in run("convert", rules, "--placeholders", values).output


def test_the_setting_says_where(tmp_path: Path) -> None:
    class Settings:
        class settings:  # noqa: N801 - as the group's context object has it
            class sigma:  # noqa: N801
                directory = tmp_path / "kept"

    (tmp_path / "a.yml").write_text(rule(0))
    done = CliRunner().invoke(
        sigma, ["import", str(tmp_path / "a.yml")], obj=Settings(), catch_exceptions=False
    )
    assert done.exit_code == 0
    assert (tmp_path / "kept" / "falco" / "sigma.yaml").exists()
