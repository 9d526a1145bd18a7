"""A strict stand-in for Falco, for what the agent asks of it: ``python -m tests.fakes.falco``.

``--validate`` and running with a configuration, SIGHUP, metrics on loopback, events appended to the
file. It detects nothing: what a rule does is named by its condition, which is one of the few below;
every other condition, key or option is an error, so that a test cannot pass by chance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

# A rule with this condition is as good as any; it never matches.
QUIET = "evt.type = execve and proc.name = sib-never"
# Matches all the time.
STORM = "evt.type in (openat, read, write, close, futex, epoll_wait)"
# Ends the engine soon after it was loaded.
CRASH = "evt.type = crash"
KEYS = {"rule", "desc", "condition", "output", "priority", "tags"}


def check(path: str) -> dict[str, Any]:
    """As ``rule_loader::result::as_json`` has it."""
    errors: list[dict[str, str]] = []
    unknown: list[str] = []
    try:
        items = yaml.safe_load(Path(path).read_text()) or []
        for item in items:
            if "list" in item:
                continue
            unknown += sorted(set(item) - KEYS)
            probe = item["rule"] == "SIB probe"
            if item["condition"] not in {QUIET, STORM, CRASH} and not probe:
                errors.append(issue("LOAD_ERR_COMPILE_CONDITION", "nonexistent field"))
    except (yaml.YAMLError, KeyError, TypeError, OSError) as error:
        errors.append(issue("LOAD_ERR_YAML_PARSE", str(error)))
    return {
        "name": path,
        "successful": not errors,
        "errors": errors,
        "warnings": [],
        "schema_valid": not unknown,
        "schema_warnings": [f"could not be validated: {key!r}" for key in unknown],
    }


def issue(code: str, message: str) -> dict[str, str]:
    return {"code": code, "codedesc": code, "message": message}


def validate(files: list[str]) -> int:
    results = [check(path) for path in files]
    print(json.dumps({"falco_load_results": results}))
    # Like the real one: what does not fit the schema does not change how it ends.
    return 0 if all(result["successful"] for result in results) else 1


class Engine:
    def __init__(self, config: Path) -> None:
        self._config = config
        self._hangup = threading.Event()
        self.page = b""
        self._load()
        port = self._tree["webserver"]["listen_port"]
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(engine.page)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        signal.signal(signal.SIGHUP, lambda *_: self._hangup.set())
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    def _files(self) -> Iterator[Path]:
        for place in map(Path, self._tree["rules_files"]):
            yield from sorted(place.glob("*.yaml")) if place.is_dir() else [place]

    def _load(self) -> None:
        self._tree = yaml.safe_load(self._config.read_text())
        files = list(self._files())
        if not all(check(str(path))["successful"] for path in files):
            sys.exit("Error: cannot load the rules")
        text = "".join(path.read_text() for path in files)
        self._storm, self._crash = STORM in text, CRASH in text
        lines = ['falcosecurity_falco_version_info{version="fake"} 1']
        lines += [
            f'falcosecurity_falco_sha256_rules_files_info{{file_name="{path.name}"'
            f',sha256="{hashlib.sha256(path.read_bytes()).hexdigest()}"}} 1'
            for path in files
        ]
        lines += [f"falcosecurity_falco_reload_timestamp_nanoseconds {time.time_ns()}", ""]
        self.page = "\n".join(lines).encode()

    def run(self) -> None:
        loaded = time.monotonic()
        while True:
            if self._hangup.wait(0.05):
                self._hangup.clear()
                self._load()
                loaded = time.monotonic()
            if self._crash and time.monotonic() - loaded > 1.0:
                os.abort()
            if self._storm:
                self._write(200)

    def _write(self, count: int) -> None:
        event = {"rule": "storm", "priority": "Notice", "output": "x", "source": "syscall",
                 "time": "2026-11-25T08:00:00.0Z", "output_fields": {}, "tags": []}  # fmt: skip
        path = self._tree["file_output"]["filename"]
        with Path(path).open("ab") as file:
            file.write((json.dumps(event) + "\n").encode() * count)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", dest="config", required=True, type=Path)
    parser.add_argument("-o", dest="options", action="append", default=[],
                        choices=["json_output=true"])  # fmt: skip
    parser.add_argument("--validate", action="append", default=[])
    given = parser.parse_args()
    if given.validate:
        return validate(given.validate)
    Engine(given.config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
