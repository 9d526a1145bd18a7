from __future__ import annotations

import http.server
import json
import os
import signal
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_agent.bundles import engine as module
from sib_agent.bundles.engine import Falco, judge_validation, read_engine
from sib_agent.bundles.fetching import BundleSource, Fetched, NotFetched, judge_fetch
from sib_agent.bundles.state import Trial
from sib_agent.bundles.watching import EngineView, Harm, Proven, TrialWatch, WatchLimits
from sib_agent.client import ServerClient
from sib_agent.settings import FalcoSettings
from sib_protocol.errors import ExitCode
from sib_protocol.messages import BundleOutcome, WantedBundle

OWN = ["/b/7/rules/10-own.yaml"]


def answer(**changed: Any) -> bytes:
    result = {
        "name": OWN[0],
        "successful": True,
        "errors": [],
        "warnings": [],
        "schema_valid": True,
        "schema_warnings": [],
        **changed,
    }
    stock = {"name": "/falco_rules.yaml", "successful": True, "schema_valid": False, "warnings": []}
    return b"a line of its log\n" + json.dumps({"falco_load_results": [stock, result]}).encode()


def issue(code: str, message: str) -> list[dict[str, str]]:
    return [{"code": code, "codedesc": "", "message": message}]


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "reason"),
    [
        (0, answer(), b"", None),
        (0, answer(warnings=issue("LOAD_UNUSED_MACRO", "unused")), b"", None),
        (
            1,
            answer(successful=False, errors=issue("LOAD_ERR_COMPILE_CONDITION", "unknown field")),
            b"",
            "10-own.yaml: unknown field",
        ),
        (1, answer(successful=False), b"", "10-own.yaml: it cannot be loaded"),
        (
            0,
            answer(schema_valid=False, schema_warnings=["colour: not allowed"]),
            b"",
            "10-own.yaml: colour: not allowed",
        ),
        (0, answer(schema_valid=False), b"", "10-own.yaml: not of the right form"),
        (
            0,
            answer(warnings=issue("LOAD_UNKNOWN_KEY", "Unknown key 'colour'")),
            b"",
            "10-own.yaml: Unknown key 'colour'",
        ),
        (
            1,
            b"",
            b"Wed Nov 25 19:00:00 2026: Falco version\nError: Plugin requirement not satisfied",
            "Plugin requirement not satisfied",
        ),
        (3, b"", b"", "falco --validate ended with 3"),
        (
            0,
            b'{"falco_load_results": [{"name": "\xff"}]}',
            b"",
            "falco --validate did not say what it thinks",
        ),
        (-signal.SIGSEGV, b"", b"", "falco --validate ended by signal 11"),
        (0, b"", b"", "falco --validate did not say what it thinks"),
        (0, b"{broken", b"", "falco --validate did not say what it thinks"),
        (
            0,
            b'{"falco_load_results": []}',
            b"",
            "falco --validate did not look at 10-own.yaml",
        ),
    ],
)
def test_what_falco_says_is_judged(
    code: int, stdout: bytes, stderr: bytes, reason: str | None
) -> None:
    assert judge_validation(code, stdout, stderr, OWN) == reason


@given(st.integers(-20, 20), st.binary(max_size=200), st.binary(max_size=50))
def test_no_answer_but_a_good_one_is_taken_for_good(
    code: int, stdout: bytes, stderr: bytes
) -> None:
    assert judge_validation(code, stdout, stderr, OWN) is not None


PAGE = b"""# HELP falcosecurity_falco_version_info https://falco.org/docs/metrics/
# TYPE falcosecurity_falco_version_info gauge
falcosecurity_falco_version_info{version="0.44.1"} 1
# TYPE falcosecurity_falco_sha256_rules_files_info gauge
falcosecurity_falco_sha256_rules_files_info{file_name="10-own.yaml",sha256="ab"} 1
# TYPE falcosecurity_falco_reload_timestamp_nanoseconds gauge
falcosecurity_falco_reload_timestamp_nanoseconds 1748338536592811359
"""


def test_metrics_say_which_rules_are_loaded() -> None:
    found = read_engine(PAGE)
    assert found is not None
    assert (found.version, found.rules) == ("0.44.1", frozenset({("10-own.yaml", "ab")}))
    assert read_engine(PAGE.replace(b"592811359", b"992811359")) != found
    assert read_engine(b"up 1\n") is None
    assert read_engine(b"} {broken\n") is None


LIMITS = WatchLimits(comeback_seconds=30.0, probation_seconds=20.0, storm=1000.0)
RULES = {"10-own.yaml": "ab"}


def view(run: str, digest: str = "ab") -> EngineView:
    return EngineView(run, "0.44.1", frozenset({("10-own.yaml", digest), ("falco.yaml", "00")}))


def watch(engine: str = "1", rate: float = 0.0) -> TrialWatch:
    return TrialWatch(Trial(7, 6, {}, engine=engine, rate=rate), RULES, LIMITS, 0.0)


def seen(watched: TrialWatch, views: list[EngineView | None], rate: float = 1.0) -> Any:
    verdict = None
    for second, engine in enumerate(views):
        verdict = watched.see(float(second), engine, int(second * rate))
        if verdict is not None:
            return second, verdict
    return len(views), verdict


def test_falco_has_to_load_these_very_rules_and_stay() -> None:
    # The old run still answers, is then away, and comes back.
    when, verdict = seen(watch(), [view("1")] * 3 + [None] * 2 + [view("2")] * 40)
    assert (when, verdict) == (25, Proven(BundleOutcome.ACCEPTED, "Falco 0.44.1 runs with it"))
    when, verdict = seen(watch(), [view("2", "cd")] * 40)
    assert (when, verdict) == (30, Harm("Falco did not load its rules within 30 s"))
    when, verdict = seen(watch(), [view("1")] * 40)
    assert verdict == Harm("Falco did not load its rules within 30 s")
    when, verdict = seen(watch(), [None] * 40)
    assert verdict == Harm("Falco did not come back within 30 s")


def test_falco_that_comes_and_goes_is_no_falco() -> None:
    when, verdict = seen(watch(), [view("2")] * 5 + [None] * 10)
    assert (when, verdict) == (10, Harm("Falco went down 10 s after loading it"))
    when, verdict = seen(watch(), [view("2")] * 5 + [None] * 2 + [view("3")])
    assert verdict == Harm("Falco ended and started again 7 s after loading it")
    # An answer that is late once is none of this.
    when, verdict = seen(watch(), [view("2")] * 5 + [None] * 2 + [view("2")] * 30)
    assert isinstance(verdict, Proven)


def test_a_storm_is_one_wherever_it_blows() -> None:
    assert seen(watch(), [view("2")] * 30, 1500.0) == (
        3,
        Harm("its rules fired 1500 events a second"),
    )
    assert seen(watch(engine=""), [None] * 30, 1000.0)[1] == Harm(
        "its rules fired 1000 events a second"
    )
    assert isinstance(seen(watch(), [view("2")] * 30, 999.0)[1], Proven)
    # A host that was loud before.
    assert isinstance(seen(watch(rate=900.0), [view("2")] * 30, 1500.0)[1], Proven)
    assert seen(watch(engine=""), [None] * 30)[1].outcome is BundleOutcome.UNWATCHED


def settings(tmp_path: Path, script: str, port: int = 1) -> FalcoSettings:
    home = tmp_path / "sib-falco"
    (home / "bin").mkdir(parents=True)
    program = home / "bin" / "falco"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(stat.S_IRWXU)
    config = tmp_path / "falco.yaml"
    config.write_text("json_output: true\n")
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.yaml").write_text("")
    (more / "b.txt").write_text("")
    return FalcoSettings(
        home=home, config=config, bundles=tmp_path / "bundles", more_rules=(str(more),),
        metrics_port=port,
    )  # fmt: skip


def test_falco_looks_at_the_files_in_the_order_of_loading(tmp_path: Path) -> None:
    falco = Falco(settings(tmp_path, f'echo "$@" > {tmp_path}/said'))
    (tmp_path / "falco-probe.yaml").write_text("")
    files = [tmp_path / "7" / "10.yaml", tmp_path / "7" / "20.yaml"]
    assert falco.validate(files).reason == "falco --validate did not say what it thinks"
    said = (tmp_path / "said").read_text().split()
    assert said[:4] == ["-c", str(tmp_path / "falco.yaml"), "-o", "json_output=true"]
    assert said[5::2] == [
        str(tmp_path / "falco-probe.yaml"),
        *map(str, files),
        str(tmp_path / "more" / "a.yaml"),
    ]


def test_a_look_that_takes_too_long_or_too_much_is_ended(tmp_path: Path) -> None:
    falco = Falco(settings(tmp_path, "exec sleep 60"))
    with mock.patch.object(module, "_SECONDS", 0.2):
        assert falco.validate([]).reason == "falco --validate took more than 0 s"
    with mock.patch.object(module, "_MOST_MEMORY", 4096):
        assert "MiB of memory" in str(falco.validate([]).reason)
    (tmp_path / "sib-falco" / "bin" / "falco").write_bytes(b"\x7fELFnot")
    assert "cannot be run" in str(falco.validate([]).reason)
    assert module._own_memory(2**22 + 1) == 0
    falco = Falco(FalcoSettings(enabled=False))
    assert (falco.look(), falco.program, falco.validate([]).looked) == (None, None, False)


@pytest.fixture
def metrics_port() -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_running_falco_is_asked_on_loopback(tmp_path: Path, metrics_port: int) -> None:
    found = Falco(settings(tmp_path, "", metrics_port)).look()
    assert found is not None
    assert found.version == "0.44.1"
    (tmp_path / "other").mkdir()
    assert Falco(settings(tmp_path / "other", "", 1)).look() is None


def test_how_a_fetch_ended_is_judged() -> None:
    assert judge_fetch(0, '{"digests": {"base": "ab"}}', "") == Fetched({"base": "ab"})
    assert judge_fetch(0, "?", "") == NotFetched("its answer cannot be read")
    assert judge_fetch(ExitCode.UNREACHABLE, "", "error: away\n  try: x") == NotFetched("away")
    assert judge_fetch(ExitCode.UNTRUSTED, "", "error: no") == NotFetched("no", proven_bad=True)
    assert judge_fetch(ExitCode.DAMAGED, "", "error: no") == NotFetched(
        "no", proven_bad=True, lasting=True
    )
    assert judge_fetch(-9, "", "").reason == "it ended with -9"  # type: ignore[union-attr]


def test_the_fetch_is_a_process_with_the_daemons_settings(tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_text('#!/bin/sh\nprintf \'{"digests": {"said": "%s"}}\' "$*"\n')
    program.chmod(stat.S_IRWXU)
    wanted = WantedBundle(7, ("7.base.tar.gz", "7.tag-web.tar.gz"))
    client = ServerClient((), ssl.create_default_context)
    source = BundleSource(client, [str(program), "--config", "a.yaml", "run"])
    found = source.fetch(wanted)
    assert found == Fetched(
        {"said": "--config a.yaml bundle-fetch 7 7.base.tar.gz 7.tag-web.tar.gz"}
    )
    assert source.refresh() is None
    assert isinstance(BundleSource(client, [str(program)]).fetch(wanted), NotFetched)
    gone = BundleSource(client, [str(tmp_path / "none"), "run"]).refresh()
    assert gone is not None
    assert os.strerror(2) in gone.reason
