"""Real programs and their fakes, as processes that tests start, kill and ask what they hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 30.0


def component(*parts: str) -> Path:
    folder = os.environ.get("SIB_COMPONENTS")
    if folder is None:
        pytest.skip(f"{'/'.join(parts)} not looked for: set SIB_COMPONENTS")
    program = Path(folder).joinpath(*parts)
    if not program.is_file():
        pytest.skip(f"{program} not found: set SIB_COMPONENTS")
    return program


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - loopback, our own URL
        return bytes(answer.read())


def post_json(url: str, content: object) -> tuple[int, str]:
    request = urllib.request.Request(  # noqa: S310 - loopback, our own URL
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Program:
    """A process on a port of its own that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_up(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT
            )
        end = time.monotonic() + DEADLINE
        while not self._answers():
            assert self.process.poll() is None, (self.directory / "log").read_text()[-2000:]
            assert time.monotonic() < end, f"{self.command()[0]} did not come up"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.is_up()
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)


class Loki(Program):
    """What both the real one and the fake are asked."""

    real = False

    def held(self, selector: str, page: int = 5000) -> list[tuple[int, str, dict[str, str]]]:
        """Everything in the streams: (time, line, labels and metadata), oldest first.

        Between two pages no two entries may have the same time.
        """
        now = time.time_ns()
        start = now - (7 * 24 * 3600 - 60) * 10**9
        held: list[tuple[int, str, dict[str, str]]] = []
        while True:
            query = urllib.parse.urlencode(
                {
                    "query": selector,
                    "start": start,
                    "end": now + 3600 * 10**9,
                    "limit": page,
                    "direction": "forward",
                }
            )
            answer = json.loads(get(f"{self.url}/loki/api/v1/query_range?{query}"))
            found = [
                (int(value[0]), value[1], stream["stream"])
                for stream in answer["data"]["result"]
                for value in stream["values"]
            ]
            held += sorted(found, key=lambda item: item[0])
            if len(found) < page:
                return held
            start = held[-1][0] + 1


class FakeLokiProgram(Loki):
    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "tests.fakes.loki"),
            *("--port", str(self.port), "--dir", str(self.directory)),
        ]

    def is_up(self) -> bool:
        return get(f"{self.url}/ready") == b"ready\n"


_LOKI_CONFIG: dict[str, Any] = {
    "auth_enabled": False,
    "analytics": {"reporting_enabled": False},
    "common": {
        "instance_addr": "127.0.0.1",
        "replication_factor": 1,
        "ring": {"kvstore": {"store": "inmemory"}},
    },
    "schema_config": {
        "configs": [
            {
                "from": "2024-01-01",
                "store": "tsdb",
                "object_store": "filesystem",
                "schema": "v13",
                "index": {"prefix": "index_", "period": "24h"},
            }
        ]
    },
    "limits_config": {
        "discover_service_name": [],
        "discover_log_levels": False,
        "volume_enabled": False,
    },
    "pattern_ingester": {"enabled": False},
}


class RealLoki(Loki):
    real = True

    def __init__(self, directory: Path) -> None:
        self._program = component("loki", "loki")
        super().__init__(directory)
        config = json.loads(json.dumps(_LOKI_CONFIG))
        config["common"]["path_prefix"] = str(directory)
        config["common"]["storage"] = {
            "filesystem": {
                "chunks_directory": str(directory / "chunks"),
                "rules_directory": str(directory / "rules"),
            }
        }
        config["server"] = {
            "http_listen_address": "127.0.0.1",
            "http_listen_port": self.port,
            "grpc_listen_address": "127.0.0.1",
            "grpc_listen_port": free_port(),
            "log_level": "warn",
        }
        # YAML reads JSON.
        (directory / "loki.yaml").write_text(json.dumps(config))

    def command(self) -> list[str]:
        return [str(self._program), f"-config.file={self.directory / 'loki.yaml'}"]

    def is_up(self) -> bool:
        # /ready says so only after its ring has been stable for 15 s; pushes are taken before.
        content = {"streams": [{"stream": {"up": "1"}, "values": [[str(time.time_ns()), "up"]]}]}
        return post_json(f"{self.url}/loki/api/v1/push", content)[0] == 204


class Falcosidekick(Program):
    """Either; its outputs ``webhook`` (all) and ``alertmanager`` (critical) post to given URLs."""

    real = False

    def __init__(self, directory: Path, webhook: str, alertmanager: str | None = None) -> None:
        self.webhook = webhook
        self.alertmanager = alertmanager
        super().__init__(directory)

    def is_up(self) -> bool:
        return get(f"{self.url}/ping") == b"pong\n"


class FakeFalcosidekickProgram(Falcosidekick):
    def command(self) -> list[str]:
        outputs = [f"--output=webhook::{self.webhook}"]
        if self.alertmanager:
            outputs.append(f"--output=alertmanager:critical:{self.alertmanager}")
        return [
            *(sys.executable, "-m", "tests.fakes.falcosidekick"),
            *("--port", str(self.port), "--dir", str(self.directory), *outputs),
        ]


class RealFalcosidekick(Falcosidekick):
    real = True

    def __init__(self, directory: Path, webhook: str, alertmanager: str | None = None) -> None:
        self._program = component("falcosidekick", "falcosidekick")
        super().__init__(directory, webhook, alertmanager)

    def command(self) -> list[str]:
        config: dict[str, Any] = {
            "listenaddress": "127.0.0.1",
            "listenport": self.port,
            "webhook": {"address": self.webhook, "minimumpriority": ""},
        }
        if self.alertmanager:
            config["alertmanager"] = {
                "hostport": self.alertmanager,
                "minimumpriority": "critical",
            }
        path = self.directory / "falcosidekick.yaml"
        path.write_text(json.dumps(config))
        return [str(self._program), "-c", str(path)]


class RealPrometheus(Program):
    def __init__(self, directory: Path) -> None:
        self._program = component("prometheus", "prometheus")
        super().__init__(directory)

    def command(self) -> list[str]:
        (self.directory / "prometheus.yml").write_text("scrape_configs: []\n")
        return [
            str(self._program),
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
        ]

    def is_up(self) -> bool:
        return get(f"{self.url}/-/ready") != b""
