from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from sib_protocol.errors import ExitCode
from sib_protocol.keys import make_csr, new_key
from sib_protocol.messages import EnrollRequest
from sib_protocol.tokens import EnrollmentToken
from sib_server import cli
from sib_server.fleet.enrollment import Fleet
from sib_server.fleet.reports import ReceivedReport
from sib_server.pki.authority import Authority
from sib_server.state.database import StateDatabase
from tests.support.fleet import Member, health_report


class Server:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "server.yaml"
        self.config.write_text(
            f"state: {{url: 'sqlite:///{directory}/state.db'}}\n"
            f"pki: {{directory: '{directory}/pki'}}\n"
            "listen: {public_urls: ['https://sib.example:8443']}\n"
        )

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(
            cli.main, ["--config", str(self.config), *arguments], input=stdin
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def join(self, name: str, *arguments: str) -> Member:
        """As the paths of HTTP will do it: by the token's text."""
        token = EnrollmentToken.parse(self.json("token", "create", *arguments)["token"])
        database = StateDatabase(f"sqlite:///{self.directory}/state.db")
        fleet = Fleet(database, Authority.load(self.directory / "pki"))
        key = new_key()
        request = EnrollRequest(token.id, token.secret, name, make_csr(key, name))
        member = Member(key, fleet.enroll(request, remote="192.0.2.1"))
        fleet.authenticate(member.der)
        report = health_report("0.1.0\x1b")
        fleet.record_health([ReceivedReport(member.id, report, time.time_ns())])
        database.close()
        return member


@pytest.fixture
def server(tmp_path: Path) -> Server:
    server = Server(tmp_path)
    assert server.run("ca", "init", "--name", "Test CA").exit_code == 0
    return server


def _is_iso(text: str) -> bool:
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


def test_ca(server: Server) -> None:
    shown = server.json("ca", "show")
    assert shown["name"] == "Test CA"
    assert shown["pin"] == Authority.load(server.directory / "pki").pin
    assert shown["server"]["names"][0] == "sib.example"
    assert _is_iso(shown["not_after"])
    assert "Test CA" in server.run("ca", "show").stdout
    before = shown["server"]["serial"]
    renewed = server.json("ca", "renew-server")
    assert renewed["serial"] != before
    assert server.json("ca", "show")["server"] == renewed
    assert "serial:" in server.run("ca", "renew-server").stdout
    again = server.run("ca", "init")
    assert again.exit_code == ExitCode.CONFLICT
    assert again.stderr.startswith("error: there is a CA in ")
    assert "\n  try: " in again.stderr


def test_ca_init_as_json(tmp_path: Path) -> None:
    made = Server(tmp_path).json("ca", "init")
    assert set(made) == {"name", "pin", "serial", "not_before", "not_after", "directory", "server"}


def test_token_create_prints_the_line_to_paste(server: Server) -> None:
    result = server.run("token", "create")
    line = result.stdout.strip()
    assert line.startswith("echo 'sib1.")
    assert line.endswith("' | sudo sib-agent enroll")
    token = EnrollmentToken.parse(line.split("'")[1])
    assert token.servers == ("https://sib.example:8443",)
    assert token.pin == Authority.load(server.directory / "pki").pin


def test_tokens(server: Server) -> None:
    made = server.json("token", "create", "--ttl", "2h", "--uses", "3", "--tag", "b", "--tag", "a")
    assert list(made)[:2] == ["id", "token"]
    assert (made["uses"], made["uses_left"], made["tags"]) == (3, 3, ["b", "a"])
    life = datetime.fromisoformat(made["expires"]) - datetime.fromisoformat(made["created"])
    assert life == timedelta(hours=2)
    (listed,) = server.json("token", "list")
    assert listed == {key: value for key, value in made.items() if key != "token"}
    assert listed["state"] == "usable"
    table = server.run("token", "list").stdout.splitlines()
    assert table[0].split() == ["ID", "STATE", "EXPIRES", "USES", "LEFT", "TAGS"]
    assert "3 of 3" in table[1]
    revoked = server.json("token", "revoke", made["id"])
    assert revoked["state"] == "revoked"
    assert _is_iso(revoked["revoked"])
    assert server.run("token", "revoke", made["id"]).stdout == f"Token {made['id']} is revoked.\n"
    assert server.run("token", "revoke", "beef").exit_code == ExitCode.NOT_FOUND


def test_hosts(server: Server) -> None:
    web = server.join("web-1", "--tag", "web")
    server.join("db-1")
    views = server.json("host", "list")
    assert [view["name"] for view in views] == ["db-1", "web-1"]
    (view,) = server.json("host", "list", "--tag", "web", "--state", "healthy")
    assert set(view) == {
        *("id", "name", "tags", "enrolled", "removed", "last_seen", "state"),
        *("certificate", "version", "address", "bundle"),
    }
    assert (view["id"], view["state"], view["tags"]) == (web.id, "healthy", ["web"])
    assert (view["version"], view["address"]) == ("0.1.0?", "192.0.2.1")
    assert view["certificate"]["serial"] == web.serial
    assert _is_iso(view["certificate"]["not_after"])
    assert _is_iso(view["last_seen"])
    assert server.json("host", "list", "--state", "silent") == []
    table = server.run("host", "list").stdout.splitlines()
    assert table[2].split()[:2] == ["web-1", "healthy"]

    shown = server.json("host", "show", "web-1")
    assert shown["health"]["spool"]["acknowledged"] == 7
    assert {key: shown[key] for key in view} == view
    text = server.run("host", "show", web.id).stdout
    assert "name: web-1" in text
    assert "\x1b" not in text
    missing = server.run("host", "show", "nobody")
    assert missing.exit_code == ExitCode.NOT_FOUND
    assert "'nobody'" in missing.stderr


def test_host_remove_asks_and_can_only_pretend(server: Server) -> None:
    web = server.join("web-1")
    assert "Would remove host web-1" in server.run("host", "remove", "web-1", "--dry-run").stdout
    pretended = server.json("host", "remove", "web-1", "--dry-run")
    assert pretended == {
        "id": web.id,
        "name": "web-1",
        "revoked_certificates": 1,
        "removed": False,
    }
    for answer in ("n\n", ""):
        refused = server.run("host", "remove", "web-1", stdin=answer)
        assert refused.exit_code == 1
        assert refused.stdout == ""
    assert len(server.json("host", "list")) == 1
    assert "web-1 is removed" in server.run("host", "remove", "web-1", stdin="y\n").stdout
    assert server.json("host", "list") == []
    (gone,) = server.json("host", "list", "--removed")
    assert (gone["state"], gone["certificate"]["revoked"]) == ("removed", True)
    assert server.run("host", "remove", "web-1", "--yes").exit_code == ExitCode.NOT_FOUND
    server.join("web-1")
    assert server.json("host", "remove", "web-1", "--yes")["removed"] is True


def test_ca_revoke(server: Server) -> None:
    web = server.join("web-1")
    revoked = server.json("ca", "revoke", web.serial.upper())
    assert (revoked["host_name"], revoked["serial"]) == ("web-1", web.serial)
    assert _is_iso(revoked["revoked"])
    assert "is revoked" in server.run("ca", "revoke", web.serial).stdout
    assert server.run("ca", "revoke", "12").exit_code == ExitCode.NOT_FOUND
    assert isinstance(web.certificate, x509.Certificate)


def test_without_a_ca_no_token_is_made(tmp_path: Path) -> None:
    result = Server(tmp_path).run("token", "create")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "sib-server ca init" in result.stderr
    assert not (tmp_path / "state.db").exists()


def test_bad_settings_and_bad_options_have_their_own_exit_codes(server: Server) -> None:
    assert server.run("token", "create", "--ttl", "soon").exit_code == ExitCode.USAGE
    assert server.run("token", "create", "--uses", "0").exit_code == ExitCode.USAGE
    server.config.write_text("listen: {prot: 1}")
    result = server.run("ca", "show")
    assert result.exit_code == ExitCode.SETTINGS
    assert "listen.prot" in result.stderr
    server.config.unlink()
    assert server.run("ca", "show").exit_code == ExitCode.FILE_ACCESS


def test_without_any_file_the_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "DEFAULT_PATH", tmp_path / "absent.yaml")
    result = CliRunner().invoke(cli.main, ["ca", "show", "--help"])
    assert result.exit_code == 0
    (tmp_path / "present.yaml").write_text(f"pki: {{directory: '{tmp_path}/nothing'}}")
    monkeypatch.setattr(cli, "DEFAULT_PATH", tmp_path / "present.yaml")
    result = CliRunner().invoke(cli.main, ["ca", "show"])
    assert f"{tmp_path}/nothing" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(["token", verb] for verb in ("create", "list", "revoke")),
        *(["host", verb] for verb in ("list", "show", "remove")),
        *(["ca", verb] for verb in ("init", "show", "renew-server", "revoke")),
    ],
)
def test_every_command_explains_itself_with_examples(command: list[str]) -> None:
    result = CliRunner().invoke(cli.main, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"sib-server {' '.join(command)}" in result.stdout
