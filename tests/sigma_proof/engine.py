"""The real Falco over real acts."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.sigma_proof.actions import Act

HERE = Path(__file__).parent
DEADLINE_S = 90.0
READY, LAST = "/opt/sib/ready", "/opt/sib/last"
"""Programs whose start says that Falco sees, and that it has seen everything."""
_SETTINGS = {
    "json_output": True,
    "json_include_output_property": False,
    "stdout_output": {"enabled": True},
    "syslog_output": {"enabled": False},
    "webserver": {"enabled": False},
    "rule_matching": "all",
    "log_syslog": False,
    "watch_config_files": False,
    "buffered_outputs": False,
    "outputs_queue": {"capacity": 0},
    "append_output": [{"match": {"source": "syscall"}, "extra_fields": ["proc.pid"]}],
    "engine": {"kind": "modern_ebpf", "modern_ebpf": {"buf_size_preset": 6}},
}


def falco_program() -> Path | None:
    """The engine, where there is one (SIB_COMPONENTS)."""
    base = os.environ.get("SIB_COMPONENTS")
    found = Path(base) / "falco" / "falco" if base else None
    return found if found and found.is_file() else None


def can_trace() -> bool:
    """Whether live runs are possible here at all."""
    return os.geteuid() == 0 and bool(shutil.which("ip")) and bool(shutil.which("cc"))


def validate(rules: str) -> list[str]:
    """What Falco says against a rules file; empty where it takes it without a word."""
    program = falco_program()
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        settings, file = Path(folder) / "falco.yaml", Path(folder) / "rules.yaml"
        settings.write_text(json.dumps(_SETTINGS))
        file.write_text(rules)
        done = subprocess.run(
            (program, "-c", settings, "--validate", file),
            capture_output=True,
            timeout=60,
            check=False,
        )
        found = json.loads(done.stdout or b"{}").get("falco_load_results", [])
    said = [
        str(problem)
        for result in found
        for kind in ("errors", "warnings", "schema_warnings")
        for problem in result[kind]
    ]
    return said or ([] if done.returncode == 0 and found else [done.stderr.decode()[-500:]])


def judge(rules: str, acts: list[Act]) -> list[tuple[Counter[str] | None, str | None]]:
    """Do the acts under Falco's eyes.

    Returns:
        For each act how often which rule fired for its process, or ``None`` with the reason
        why the act could not be done.
    """
    program = falco_program()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="sib-proof-") as name:
        folder = Path(name)
        actor = folder / "actor"
        subprocess.run(
            ("cc", "-O1", "-static", "-o", actor, HERE / "actor.c"), check=True, timeout=60
        )
        (folder / "falco.yaml").write_text(json.dumps(_SETTINGS))
        (folder / "rules.yaml").write_text(rules)
        marks = "".join(
            f"- rule: {path}\n  desc: a mark\n  output: a mark\n  priority: INFO\n"
            f'  condition: evt.type = execve and proc.exepath = "{path}"\n'
            for path in (READY, LAST)
        )
        (folder / "marks.yaml").write_text(marks)
        alerts = folder / "alerts.json"
        with alerts.open("wb") as out, (folder / "log").open("wb") as log:
            falco = subprocess.Popen(
                (
                    program,
                    "-c",
                    folder / "falco.yaml",
                    "-r",
                    folder / "rules.yaml",
                    "-r",
                    folder / "marks.yaml",
                ),
                stdout=out,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not _seen(alerts, READY):
                if time.monotonic() > deadline or falco.poll() is not None:
                    raise RuntimeError(
                        "Falco sees nothing: " + (folder / "log").read_text()[-2000:]
                    )
                _sandbox(actor, [_mark(READY)])
                time.sleep(0.3)
            results = _sandbox(actor, [dataclasses.asdict(act) for act in acts] + [_mark(LAST)])
            _wait(falco, alerts, LAST)
        finally:
            falco.terminate()
            falco.wait(timeout=30)
        fired: dict[int, Counter[str]] = {}
        for line in alerts.read_text(errors="replace").split("\n"):
            if not line.startswith("{"):
                continue
            alert = json.loads(line)
            if "rule" in alert:
                fired.setdefault(alert["output_fields"].get("proc.pid"), Counter())[
                    alert["rule"]
                ] += 1
    return [
        (fired.get(one["pid"], Counter()) if one["pid"] is not None else None, one["why"])
        for one in results[:-1]
    ]


def _mark(path: str) -> dict[str, Any]:
    return {
        "image": path, "argv": ["mark"],
        "parent_image": "/opt/sib/parent", "parent_argv": ["parent"],
        "cwd": "/", "uid": 0, "words": ["exit"], "existing": [], "started_as": "",
    }  # fmt: skip


def _sandbox(actor: Path, acts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        (sys.executable, "-m", "tests.sigma_proof.sandbox", actor),
        input=json.dumps(acts).encode(),
        capture_output=True,
        cwd=HERE.parent.parent,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def _seen(alerts: Path, mark: str) -> bool:
    return f'"rule":"{mark}"'.encode() in alerts.read_bytes()


def _wait(falco: subprocess.Popen[bytes], alerts: Path, mark: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not _seen(alerts, mark):
        if time.monotonic() > deadline or falco.poll() is not None:
            raise RuntimeError(f"Falco has not seen {mark}")
        time.sleep(0.5)
    # Buffers of other processors may still hold what happened at the same time.
    time.sleep(1.0)
