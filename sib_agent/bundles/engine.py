"""Falco on this host: what it thinks of rule files, and what it has loaded."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from sib_agent.bundles.watching import EngineView
from sib_agent.doctor.metrics import fetch
from sib_agent.setup.facts import find_falco
from sib_agent.setup.falco_config import rules_paths
from sib_protocol.errors import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_agent.settings import FalcoSettings

_SECONDS: Final = 60.0
# All rules with 100,000 indicators take 86 MiB. With the agent's own it stays below what the unit
# may take: over that the kernel would end the agent, too.
_MOST_MEMORY: Final = 128 * 1024 * 1024
_MOST_ANSWER: Final = 16 * 1024 * 1024
_TICK: Final = 0.05
_PAGE: Final = os.sysconf("SC_PAGESIZE")
_RULES: Final = "falcosecurity_falco_sha256_rules_files_info"
_RELOAD: Final = "falcosecurity_falco_reload_timestamp_nanoseconds"
_VERSION: Final = "falcosecurity_falco_version_info"
_REFUSED_WARNINGS: Final = frozenset({"LOAD_UNKNOWN_KEY"})
_LEVELS: Final = re.compile(r"^(?:\w{3} \w{3} +\d+ [\d:]+ \d{4}: )?(?:Error: )?")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What Falco thinks of a bundle.

    Attributes:
        looked: whether there was a Falco that could look.
        reason: why it would not have it; ``None``: it would.
    """

    looked: bool
    reason: str | None = None


class LoadIssue(msgspec.Struct, frozen=True):
    """One error or warning about a rule file."""

    code: str = ""
    message: str = ""


class LoadResult(msgspec.Struct, frozen=True):
    """What Falco says of one rule file; see its ``rule_loader::result``."""

    name: str
    successful: bool
    errors: list[LoadIssue] = []
    warnings: list[LoadIssue] = []
    schema_valid: bool = True
    schema_warnings: list[str] = []


class LoadResults(msgspec.Struct, frozen=True):
    """Its whole answer."""

    falco_load_results: list[LoadResult]


def judge_validation(code: int, answer: bytes, complaints: bytes, own: Sequence[str]) -> str | None:
    """Why Falco would not have some rule files; ``None``: it would. Pure.

    Args:
        code: how the program ended; below 0 by a signal.
        answer: what it wrote on stdout.
        complaints: what it wrote on stderr.
        own: the bundle's files, of which a key that Falco does not know is an error: Falco itself
            would leave it out and say nothing with its exit code.
    """
    results = _read_results(answer)
    refusal = next(filter(None, (_refusal(one, own) for one in results or [])), None)
    if refusal is not None:
        return refusal
    if code != 0:
        return _ended(code, complaints)
    if results is None:
        return "falco --validate did not say what it thinks"
    missing = set(own) - {result.name for result in results}
    return f"falco --validate did not look at {Path(min(missing)).name}" if missing else None


def _refusal(result: LoadResult, own: Sequence[str]) -> str | None:
    name = Path(result.name).name
    if not result.successful:
        issue = next(iter(result.errors), LoadIssue("", "it cannot be loaded"))
        return f"{name}: {issue.message or issue.code}"
    if result.name not in own:
        return None
    if not result.schema_valid:
        return f"{name}: {next(iter(result.schema_warnings), 'not of the right form')}"
    unknown = (one for one in result.warnings if one.code in _REFUSED_WARNINGS)
    return next((f"{name}: {one.message or one.code}" for one in unknown), None)


def _ended(code: int, complaints: bytes) -> str:
    if code < 0:
        return f"falco --validate ended by signal {-code}"
    lines = complaints.decode("utf-8", "replace").strip().splitlines()
    return _LEVELS.sub("", lines[-1]) if lines else f"falco --validate ended with {code}"


def _read_results(answer: bytes) -> list[LoadResult] | None:
    # Falco may write lines of its log before.
    for line in reversed(answer.splitlines()):
        if line.startswith(b"{"):
            try:
                return msgspec.json.decode(line, type=LoadResults).falco_load_results
            except UNDECODABLE:
                return None
    return None


def read_engine(page: bytes) -> EngineView | None:
    """What a page of Falco's metrics says; ``None`` where it is another's. Pure."""
    run = version = ""
    rules = set()
    try:
        for family in text_string_to_metric_families(page.decode("utf-8", "replace")):
            for sample in family.samples:
                if sample.name == _RELOAD:
                    run = repr(sample.value)
                elif sample.name == _VERSION:
                    version = sample.labels.get("version", "")
                elif sample.name == _RULES:
                    labels = sample.labels
                    rules.add((labels.get("file_name", ""), labels.get("sha256", "")))
    except (ValueError, KeyError, IndexError):
        return None
    return EngineView(run, version[:64], frozenset(rules)) if run else None


class Falco:
    """The Falco of the settings, where it is.

    Args:
        settings: say where it is, and which other rules it loads.
    """

    def __init__(self, settings: FalcoSettings) -> None:
        self._settings = settings

    @property
    def program(self) -> Path | None:
        """The program; ``None`` where there is none that SIB has set up."""
        program = self._settings.home / "bin/falco"
        here = self._settings.enabled and program.is_file() and self._settings.config.is_file()
        return program if here else None

    def look(self) -> EngineView | None:
        """What runs now; ``None``: nothing answers."""
        if not self._settings.enabled:
            return None
        page = fetch(f"http://127.0.0.1:{self._settings.metrics_port}/metrics")
        return None if page is None else read_engine(page)

    def validate(self, files: Sequence[Path]) -> Opinion:
        """Have Falco look at rule files as it would load them, after those it loads before.

        Args:
            files: in the order of loading.
        """
        program = self.program
        if program is None:
            return Opinion(looked=False)
        own = [str(file) for file in files]
        command = [str(program), "-c", str(self._settings.config), "-o", "json_output=true"]
        for path in (*self._others(before=True), *own, *self._others(before=False)):
            command += ["--validate", path]
        with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaints:
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=answer, stderr=complaints
                )
            except OSError as error:
                return Opinion(looked=True, reason=f"falco cannot be run: {error.strerror}")
            stopped = _await(process)
            if stopped is not None:
                return Opinion(looked=True, reason=stopped)
            for file in (answer, complaints):
                file.seek(0)
            reason = judge_validation(
                process.returncode, answer.read(_MOST_ANSWER), complaints.read(_MOST_ANSWER), own
            )
        return Opinion(looked=True, reason=reason)

    def _others(self, *, before: bool) -> list[str]:
        bundle = str(self._settings.bundles / "current" / "rules")
        paths = rules_paths(self._settings, find_falco(self._settings))
        place = paths.index(bundle)
        chosen = paths[:place] if before else paths[place + 1 :]
        return [str(file) for path in chosen for file in rule_files(Path(path))]


def rule_files(path: Path) -> list[Path]:
    """The files that Falco loads for a path of its settings, in their order."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in {".yaml", ".yml"})
    return [path] if path.is_file() else []


def _await(process: subprocess.Popen[bytes]) -> str | None:
    """Wait for the program; returns why it was stopped, if it was.

    Its memory is looked at rather than limited: a limit of address space is one that Go's runtime
    in Falco's plugins does not start under.
    """
    end = time.monotonic() + _SECONDS
    reason = None
    while reason is None:
        try:
            process.wait(_TICK)
        except subprocess.TimeoutExpired:
            if time.monotonic() > end:
                reason = f"falco --validate took more than {_SECONDS:.0f} s"
            elif _own_memory(process.pid) > _MOST_MEMORY:
                reason = f"falco --validate took more than {_MOST_MEMORY >> 20} MiB of memory"
        else:
            return None
    process.kill()
    process.wait()
    return reason


def _own_memory(pid: int) -> int:
    """Bytes that only this process has; what is mapped from files can be dropped at any time."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE
