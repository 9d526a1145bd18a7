"""The real Falco for tests: where there is one, and this machine can run it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sib_protocol.drills.engine import Falco, falco_settings
from sib_server.detection.rules.compile import compile_rules
from sib_server.settings import ServerSettings
from tests.support.components import component

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "rules" / "falco"


def live_falco() -> Path:
    """The program; skips by name where it cannot watch this machine."""
    falco = component("falco", "falco")
    if os.geteuid() != 0:
        pytest.skip("Falco loads its probe as root alone")
    return falco


def rule_files() -> list[Path]:
    """SIB's own, in the order of loading."""
    others = [path for path in sorted(SHIPPED.glob("*.yaml")) if "drills" not in path.name]
    macros = SHIPPED / "macros.yaml"
    return [macros, *(path for path in others if path != macros)]


class RecordingFalco(Falco):
    """Writes what it sees into ``recorded*.scap`` in its folder, from its first alert on."""

    def settings(self) -> dict[str, Any]:
        capture = {
            "enabled": True,
            "path_prefix": str(self.log.with_name("recorded")),
            "mode": "all_rules",
            "default_duration": 600_000,
        }
        return {**super().settings(), "capture": capture}


def replayed(
    program: Path, rules: Sequence[Path], recorded: Path, plugins: Path, folder: Path
) -> set[tuple[str, str]]:
    """Rule and time of all alerts."""
    engine = {"kind": "replay", "replay": {"capture_file": str(recorded)}}
    (folder / "replay.yaml").write_text(json.dumps({**falco_settings(plugins), "engine": engine}))
    words = [word for path in rules for word in ("-r", str(path))]
    done = subprocess.run(
        (program, "-c", folder / "replay.yaml", *words),
        capture_output=True,
        timeout=120,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(b"{")]
    alerts = [json.loads(line) for line in lines]
    return {(alert["rule"], alert["time"]) for alert in alerts if "rule" in alert}


def shipped_settings(empty: Path, falco_rules: Path) -> ServerSettings:
    """SIB's own rules and a copy of the Falco project's, and nothing else.

    Args:
        empty: an empty folder.
        falco_rules: the project's file, or the empty folder.
    """
    plain = ServerSettings()
    detection = msgspec.structs.replace(
        plain.detection,
        own_rules=empty,
        falco_rules=falco_rules,
        directory=empty,
        shipped_rules=SHIPPED,
    )
    return msgspec.structs.replace(plain, detection=detection)


def compiled_files(folder: Path, falco_rules: Path) -> list[Path]:
    """The rules of a bundle with SIB's and the Falco project's, written into a folder."""
    empty = folder / "empty"
    empty.mkdir()
    files = compile_rules(shipped_settings(empty, falco_rules)).checked().files
    found = [folder / Path(name).name for name in sorted(files) if name.startswith("rules/")]
    for path in found:
        path.write_bytes(files[f"rules/{path.name}"])
    return found
