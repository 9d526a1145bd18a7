"""What is covered, proven and fired, by rules, proofs and a journal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sib_protocol.errors import ExitCode
from sib_protocol.events import DEMO_TAG
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId
from sib_server.cli import main
from sib_server.detection.attack.matrix import shipped
from sib_server.detection.rules.proofs import OWN_NAME, SHIPPED_NAME, Proof, Proofs, save_proofs
from sib_server.events.incoming import IncomingBatch
from sib_server.events.journal import Journal
from tests.support.rules import OURS, Place

STREAM = StreamId("00000000-0000-4000-8000-000000000001")
HOST = HostId("00000000-0000-4000-9000-000000000001")


def covered(place: Place, technique: str = "T1003.008") -> dict[str, Any]:
    answer = json.loads(place.run("coverage", "--json").stdout)
    (tactic,) = (one for one in answer["tactics"] if one["tag"] == "mitre_credential_access")
    (found,) = (one for one in tactic["techniques"] if one["id"] == technique)
    return dict(found)


def prove(place: Place, name: str, time: str, content: str | None = None, *techniques: str) -> None:
    if content is None:
        content = json.loads(place.run("show", "own-rule-1", "--json").stdout)["content"]
    proof = Proof("own-rule-1", content, "0.44.1", "6.18", time, 2, techniques)
    save_proofs(place.root / name, Proofs({"own-rule-1": proof}))


def test_a_technique_has_a_rule_until_that_is_switched_off(place: Place) -> None:
    assert covered(place) == {
        "id": "T1003.008",
        "name": "OS Credential Dumping: /etc/passwd and /etc/shadow",
        "rules": ["own-rule-1"],
        "disabled": [],
        "proven": None,
        "outdated": False,
        "fired": None,
    }
    assert covered(place, "T1003")["rules"] == []
    place.run("disable", "own-rule-1")
    assert covered(place)["rules"] == []
    assert covered(place)["disabled"] == ["own-rule-1"]
    assert "switched off: own-rule-1" in place.run("coverage", "credential_access").stdout


def test_a_proof_holds_for_the_rule_as_it_was(place: Place) -> None:
    prove(place, f"sib/{SHIPPED_NAME}", "2026-11-01T00:00:00Z")
    assert covered(place)["proven"] == {
        "rule": "own-rule-1",
        "engine": "0.44.1",
        "time": "2026-11-01T00:00:00Z",
    }
    prove(place, f"state/{OWN_NAME}", "2026-11-02T00:00:00Z")
    assert covered(place)["proven"]["time"] == "2026-11-02T00:00:00Z"
    told = place.run("coverage", "TA0006").stdout
    assert "2026-11-02 Falco 0.44.1" in told
    # Another description is the same rule; another condition is not.
    place.write("sib/ours.yaml", OURS.replace("desc: opened", "desc: read"))
    assert covered(place)["proven"] is not None
    place.write("sib/ours.yaml", OURS.replace("evt.type = open", "evt.type = openat"))
    assert covered(place)["proven"] is None
    assert covered(place)["outdated"]
    assert "changed since" in place.run("coverage", "credential-access").stdout
    # An old proof does not hide a newer one, nor a damaged file anything.
    prove(place, f"sib/{SHIPPED_NAME}", "2026-11-03T00:00:00Z")
    assert covered(place)["proven"]["time"] == "2026-11-03T00:00:00Z"
    (place.root / "sib" / SHIPPED_NAME).write_text("{")
    place.run("coverage", code=ExitCode.DAMAGED)


def test_a_technique_is_proven_by_a_drill_for_it_alone(place: Place) -> None:
    place.write("sib/ours.yaml", OURS.replace("T1003.008]", "T1003.008, T1552]"))
    prove(place, f"sib/{SHIPPED_NAME}", "2026-11-01T00:00:00Z", None, "T1552")
    assert covered(place, "T1552")["proven"] is not None
    assert covered(place)["proven"] is None
    # The rule is as it was proven: nothing is outdated, this technique never was proven.
    assert not covered(place)["outdated"]


def test_a_tuning_or_another_drill_takes_a_proof_away(place: Place) -> None:
    prove(place, f"sib/{SHIPPED_NAME}", "2026-11-01T00:00:00Z")
    drills = (place.root / "sib/ours.drills.yaml").read_text()
    place.write("sib/ours.drills.yaml", drills.replace("cat /etc/shadow", "id"))
    assert covered(place)["outdated"]
    place.write("sib/ours.drills.yaml", drills)
    assert not covered(place)["outdated"]
    place.tune("Ours", "who", ("proc.name", "user.name"), "passwd", "root")
    assert covered(place)["outdated"]


def event(rule: str, *tags: str) -> bytes:
    return json.dumps({"rule": rule, "priority": "Warning", "output": "x", "tags": tags}).encode()


def test_what_fired_is_told_unless_it_was_a_demonstration(place: Place) -> None:
    times = iter([1_700_000_000 * 10**9, 1_700_000_060 * 10**9])
    journal = Journal.open(place.root / "journal.db", clock_ns=lambda: next(times))

    def append(first: int, *lines: bytes) -> None:
        journal.append([IncomingBatch(STREAM, HOST, HostName("web-1"), LineNumber(first), lines)])

    append(0, event("Ours"), event("Stranger"))
    append(2, event("Ours", DEMO_TAG))
    journal.close()
    assert covered(place)["fired"] == "2023-11-14T22:13:20Z"
    totals = json.loads(place.run("coverage", "--json").stdout)["totals"]
    assert totals["fired"] == 1


COLOUR = re.compile(r"#[0-9a-f]{6}")


def passed_over(layer: dict[str, Any]) -> list[str]:
    """What of a layer Navigator 5.1.0 would not take, by its reader and the format's 4.5."""
    found: list[str] = []

    def want(what: str, holds: bool) -> None:
        if not holds:
            found.append(what)

    want("versions", layer["versions"]["layer"] == "4.5" and layer["versions"]["attack"].isdigit())
    want("texts", all(type(layer[key]) is str and layer[key] for key in ("name", "description")))
    want("domain", layer["domain"] == "enterprise-attack")
    want("sorting", layer["sorting"] in range(4))
    switches = ("hideDisabled", "selectTechniquesAcrossTactics", "selectSubtechniquesWithParent")
    want("switches", all(type(layer[key]) is bool for key in switches))
    layout = layer["layout"]
    want("layout", layout["layout"] in {"side", "flat", "mini"})
    want("layout", all(type(layout[key]) is bool for key in ("showID", "showName")))
    want("layout", layout["expandedSubtechniques"] in {"none", "all", "annotated"})
    platforms = layer.get("filters", {"platforms": ["Linux"]})["platforms"]
    want("filters", bool(platforms) and all(type(one) is str for one in platforms))
    gradient = layer["gradient"]
    want("gradient", gradient["minValue"] < gradient["maxValue"] and len(gradient["colors"]) >= 2)
    legend = layer["legendItems"]
    want("legend", all(one.keys() == {"label", "color"} and one["label"] for one in legend))
    colours = [*gradient["colors"], *(one["color"] for one in legend)]
    want("colours", all(COLOUR.fullmatch(one) for one in colours))
    known = shipped().by_id()
    places = [(one["techniqueID"], one["tactic"]) for one in layer["techniques"]]
    want("once", len(places) == len(set(places)))
    for one in layer["techniques"]:
        name = one["techniqueID"]
        tactics = {tactic.replace("_", "-") for tactic in known[name].tactics}
        want(name, one["tactic"] in tactics and not known[name].gone)
        want(name, all(type(one[key]) is bool for key in ("enabled", "showSubtechniques")))
        want(name, gradient["minValue"] <= one.get("score", 50) <= gradient["maxValue"])
        want(name, ("score" in one) == one["enabled"])
        rows = one["metadata"]
        want(name, all(type(row["name"]) is type(row["value"]) is str for row in rows))
        want(name, all(row["name"] and row["value"] for row in rows))
    return found


def test_the_navigator_takes_all_of_a_layer(place: Place) -> None:
    file = place.root / "layer.json"
    place.run("disable", "Stock shell")
    place.run("coverage", "--navigator", str(file))
    layer = json.loads(file.read_text())
    assert passed_over(layer) == []
    # And it is seen where it would not.
    broken = {**layer, "sorting": "0", "techniques": [{**layer["techniques"][0], "tactic": "x_y"}]}
    assert passed_over(broken) == ["sorting", broken["techniques"][0]["techniqueID"]]


def test_the_navigator_takes_the_layer_of_the_shipped_rules(tmp_path: Path) -> None:
    file, settings = tmp_path / "layer.json", tmp_path / "server.yaml"
    tree = {
        "journal": {"path": str(tmp_path / "journal.db")},
        "detection": {"own_rules": str(tmp_path / "own"), "directory": str(tmp_path / "rules")},
    }
    settings.write_text(json.dumps(tree))
    done = CliRunner().invoke(
        main, ["--config", str(settings), "rules", "coverage", "--navigator", str(file)]
    )
    assert done.exit_code == 0, done.output
    layer = json.loads(file.read_text())
    assert len(layer["techniques"]) > 100
    assert passed_over(layer) == []


def test_a_layer_is_what_the_navigator_reads(place: Place) -> None:
    prove(place, f"sib/{SHIPPED_NAME}", "2026-11-01T00:00:00Z")
    place.run("disable", "Stock shell")
    file = place.root / "layer.json"
    told = place.run("coverage", "--navigator", str(file))
    assert "layer written" in told.output
    layer = json.loads(file.read_text())
    assert layer["versions"] == {"attack": "18", "navigator": "5.1.0", "layer": "4.5"}
    assert layer["domain"] == "enterprise-attack"
    assert "MITRE" in layer["description"]
    assert layer["filters"]["platforms"] == ["Linux", "Containers"]
    found = {one["techniqueID"]: one for one in layer["techniques"]}
    assert found["T1003.008"]["score"] == 100
    assert found["T1003.008"]["tactic"] == "credential-access"
    assert {one["name"] for one in found["T1003.008"]["metadata"]} == {"rules", "proven"}
    assert found["T1059"]["enabled"] is False
    assert "score" not in found["T1059"]
    place.run("coverage", "--navigator", str(place.root / "no" / "x"), code=ExitCode.FILE_ACCESS)
    # What the cloud's platforms have would be hidden.
    cloud = OURS.replace("credential_access", "discovery").replace("T1003.008", "T1580")
    place.write("own/cloud.yaml", cloud.replace("Ours", "Cloud").replace("ours_", "cloud_"))
    place.run("coverage", "--navigator", str(file))
    layer = json.loads(file.read_text())
    assert "T1580" in {one["techniqueID"] for one in layer["techniques"]}
    assert "filters" not in layer


def test_the_table_has_every_tactic_and_a_total(place: Place) -> None:
    told = place.run("coverage").stdout
    assert all(tactic.tag in told for tactic in shipped().tactics)
    assert "2 have a rule, 0 are proven, 0 have fired" in told
    assert "1 have a rule" in place.run("coverage", "--source", "sib").stdout
    place.write("own/x.yaml", OURS.replace("Ours", "Mine").replace("T1003.008", "T9999"))
    assert "not in this version: T9999" in place.run("coverage").stdout
    assert "T1003.001" not in place.run("coverage", "credential_access").stdout
    assert "T1003.007" in place.run("coverage", "credential_access", "--missing").stdout
    place.run("coverage", "nonsense", code=ExitCode.USAGE)


def test_a_rule_counts_in_the_tactics_that_it_names(place: Place) -> None:
    # T1078 belongs to four tactics; a rule that names none of them counts in all.
    place.write("sib/ours.yaml", OURS.replace("T1003.008", "T1078"))
    answer = json.loads(place.run("coverage", "--json", "--source", "sib").stdout)

    def tactics() -> set[str]:
        return {
            tactic["tag"]
            for tactic in answer["tactics"]
            for one in tactic["techniques"]
            if one["id"] == "T1078" and one["rules"]
        }

    assert len(tactics()) == 4
    text = OURS.replace("T1003.008", "T1078").replace(
        "mitre_credential_access", "mitre_persistence"
    )
    place.write("sib/ours.yaml", text)
    answer = json.loads(place.run("coverage", "--json", "--source", "sib").stdout)
    assert tactics() == {"mitre_persistence"}


@pytest.mark.parametrize("version", ["18.1"])
def test_the_shipped_matrix_is_whole(version: str) -> None:
    matrix = shipped()
    assert matrix.version == version
    assert len(matrix.tactics) == 14
    tags = {tactic.tag for tactic in matrix.tactics}
    assert all(set(one.tactics) <= tags for one in matrix.techniques if not one.gone)
    assert all(one.parent in matrix.by_id() for one in matrix.techniques if one.parent)
