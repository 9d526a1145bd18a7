from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from sib_protocol.errors import ExitCode
from sib_protocol.ids import HostId
from sib_protocol.keys import make_csr, new_key
from sib_protocol.messages import BundleEnd, BundleHealth, BundleOutcome, EnrollRequest
from sib_protocol.tokens import EnrollmentToken
from sib_server import cli
from sib_server.cli.context import ServerContext
from sib_server.fleet.enrollment import Fleet
from sib_server.fleet.reports import ReceivedReport
from sib_server.pki.authority import Authority
from sib_server.settings_files import load_server_settings
from sib_server.state.database import StateDatabase
from tests.support.fleet import health_report


class Server:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "server.yaml"
        self.config.write_text(
            f"state: {{url: 'sqlite:///{directory}/state.db'}}\n"
            f"pki: {{directory: '{directory}/pki'}}\n"
            f"bundles: {{directory: '{directory}/bundles'}}\n"
            f"detection: {{own_rules: '{directory}/rules.d', directory: '{directory}/rules'}}\n"
            f"sigma: {{directory: '{directory}/sigma'}}\n"
            f"intel: {{directory: '{directory}/intel'}}\n"
            "listen: {public_urls: ['https://sib.example:8443']}\n"
        )
        self.rules = directory / "compiled" / "rules"
        self.rules.mkdir(parents=True)
        self.write(b"- list: one\n  items: []\n")

    def write(self, text: bytes) -> None:
        (self.rules / "10-own.yaml").write_bytes(text)

    def run(self, *arguments: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(
            cli.main, ["--config", str(self.config), "bundle", *arguments], input=stdin
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def publish(self, *arguments: str) -> Any:
        return self.json("publish", "--from", str(self.rules.parent), *arguments)

    def join(self, name: str, bundle: BundleHealth) -> None:
        context = ServerContext(lambda: load_server_settings(self.config, needed=True))
        database = StateDatabase(f"sqlite:///{self.directory}/state.db")
        try:
            made = context.tokens.create(ttl=timedelta(hours=1))
            fleet = Fleet(database, Authority.load(self.directory / "pki"))
            key = new_key()
            token = EnrollmentToken(("https://x:1",), "0" * 64, made.record.id, made.secret)
            answer = fleet.enroll(
                EnrollRequest(token.id, token.secret, name, make_csr(key, name)), remote="::1"
            )
            report = health_report("0.1.0")
            host_id = HostId(answer.host_id)
            fleet.record_health(
                [ReceivedReport(host_id, replace(report, bundle=bundle), time.time_ns())]
            )
        finally:
            database.close()
            context.close()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    made = Server(tmp_path)
    result = CliRunner().invoke(cli.main, ["--config", str(made.config), "ca", "init"])
    assert result.exit_code == 0, result.output
    return made


def test_init_is_made_once(server: Server) -> None:
    assert server.run("status").exit_code == ExitCode.NOT_FOUND
    assert server.json("init")["made"] is True
    assert server.json("init")["made"] is False
    assert "already" in server.run("init").stdout
    assert server.run("init", "--root-threshold", "2").exit_code == ExitCode.USAGE
    assert "no bundle was published yet" in server.run("status").stdout


def test_rules_are_compiled_where_none_are_given(server: Server) -> None:
    server.json("init")
    built = server.json("build")
    assert any(name.startswith("rules/1") for name in built["added"])
    own = server.directory / "rules.d"
    own.mkdir()
    (own / "bad.yaml").write_text("- rule: [not, a, name]\n")
    assert server.run("publish").exit_code == ExitCode.DAMAGED


def test_indicators_are_renewed_without_what_is_still_at_work(server: Server) -> None:
    server.json("init")
    assert server.run("publish", "--indicators").exit_code == ExitCode.CONFLICT
    assert server.run("publish", "--indicators", "--canary", "5%").exit_code == ExitCode.USAGE
    first = server.json("publish")
    assert not any("-intel." in name for name in first["added"])
    own = server.directory / "rules.d"
    own.mkdir()
    (own / "mine.yaml").write_text("- list: at_work\n  items: [a]\n")
    assert server.json("publish", "--indicators")["published"] is None

    feed = server.directory / "feed.txt"
    feed.write_text("45.66.77.88\n")
    config = ["--config", str(server.config)]
    done = CliRunner().invoke(cli.main, [*config, "intel", "import", str(feed)])
    assert done.exit_code == 0, done.output
    second = server.json("publish", "--indicators")
    assert second["published"] == 2
    (added,) = second["added"]
    assert "-intel." in added
    assert second["changed"] == second["removed"] == []
    # What somebody is at work on goes out only when he says so, and on trial nothing does.
    assert any("-own." in name for name in server.json("publish", "--canary", "1%")["added"])
    refused = server.run("publish", "--indicators")
    assert refused.exit_code == ExitCode.CONFLICT
    assert "bundle 3 is on trial with canaries" in refused.stderr


def test_a_tags_file_that_would_change_nothing_is_refused(server: Server) -> None:
    server.json("init")
    web = server.directory / "rules.d" / "web"
    web.mkdir(parents=True)
    file = web / "more.yaml"
    file.write_text("- list: sib_shells\n  items: [ours]\n  override: {items: append}\n")
    assert server.json("build")["added"]
    file.write_text("- macro: sib_expected_change\n  condition: proc.name = ours\n")
    refused = server.run("build")
    assert refused.exit_code == ExitCode.USAGE
    assert "more.yaml changes sib_expected_change" in refused.stderr


def test_init_says_what_to_do_with_the_root_key(server: Server) -> None:
    assert "export-root" in server.run("init").output


def test_publish_says_what_changes_and_publishes_nothing_twice(server: Server) -> None:
    server.json("init")
    assert server.json("build", "--from", str(server.rules.parent))["added"] == [
        "rules/10-own.yaml"
    ]
    assert server.publish("--dry-run")["published"] is None
    assert server.publish()["published"] == 1
    assert server.publish()["published"] is None
    assert "Nothing differs" in server.run("build", "--from", str(server.rules.parent)).stdout
    assert server.publish("--force")["published"] == 2
    server.write(b"- list: two\n  items: []\n")
    (server.rules / "20-new.yaml").write_bytes(b"")
    text = server.run("publish", "--from", str(server.rules.parent), "--canary", "5%").stdout
    assert "+ rules/20-new.yaml\n~ rules/10-own.yaml\n" in text
    assert "Published bundle 3, to 5 % of the hosts first." in text


def test_tags_have_rules_of_their_own(server: Server) -> None:
    server.json("init")
    own = server.directory / "rules.d" / "web"
    own.mkdir(parents=True)
    (own / "apache.yaml").write_bytes(b"- list: web\n  items: []\n")
    (server.directory / "rules.d" / "everywhere.yaml").write_bytes(b"")
    view = server.publish()
    assert list(view["parts"]) == ["base", "tag-web"]
    assert "tag-web/rules/80-web-apache.yaml" in view["added"]
    (server.rules / "80-web-apache.yaml").write_bytes(b"")
    failed = server.run("publish", "--from", str(server.rules.parent))
    assert failed.exit_code == ExitCode.USAGE
    assert "every host has already" in failed.stderr


def test_what_cannot_be_published_is_refused(server: Server, tmp_path: Path) -> None:
    server.json("init")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert server.run("publish", "--from", str(empty)).exit_code == ExitCode.USAGE
    (server.rules / "a b.yaml").write_bytes(b"")
    failed = server.run("publish", "--from", str(server.rules.parent))
    assert failed.exit_code == ExitCode.UNTRUSTED
    assert "'rules/a b.yaml' is not a file's name" in failed.stderr
    for share in ("0%", "101%", "five", "-1"):
        failed = server.run("publish", "--from", str(server.rules.parent), "--canary", share)
        assert failed.exit_code == ExitCode.USAGE


def test_rollback_brings_old_rules_under_a_new_version(server: Server) -> None:
    server.json("init")
    assert server.run("rollback", "--yes").exit_code == ExitCode.NOT_FOUND
    server.publish()
    server.write(b"- list: two\n  items: []\n")
    server.publish()
    assert "Would bring back bundle 1" in server.run("rollback", "--dry-run").stdout
    assert server.run("rollback", stdin="n\n").exit_code == 1
    assert server.json("rollback", "--yes") == {"published": 3, "restores": 1}
    assert server.run("rollback", "--to", "9", "--yes").exit_code == ExitCode.NOT_FOUND
    assert "brings back 2" in server.run("rollback", "--to", "2", "--yes").stdout
    view = server.json("status")
    assert (view["version"], view["rollout"]["stage"]) == (4, "done")
    first, second = view["releases"][2], view["releases"][0]
    assert first["parts"]["base"]["sha256"] == second["parts"]["base"]["sha256"]


def test_status_shows_hosts_and_a_rollout(server: Server) -> None:
    server.json("init")
    server.publish()
    server.run("promote")
    assert server.run("promote").exit_code == ExitCode.NOT_FOUND
    ended = BundleEnd(2, BundleOutcome.ROLLED_BACK, "Falco\x1b did not come back", 1)
    server.join("web-1", BundleHealth(1, ended))
    server.join("web-2", BundleHealth(2))
    server.write(b"- list: two\n  items: []\n")
    assert server.publish("--canary", "50%")["published"] == 3
    server.json("promote")
    view = server.json("status", code=0)
    assert (view["rollout"]["stage"], view["rollout"]["hosts"]) == ("all", 2)
    assert view["hosts"]["lagging"] == 2
    server.join("web-3", BundleHealth(2, BundleEnd(3, BundleOutcome.REFUSED, "no", 1)))
    view = server.json("status", code=ExitCode.INCOMPLETE)
    assert view["failing"] == [
        {
            "id": view["failing"][0]["id"],
            "name": "web-3",
            "version": 3,
            "outcome": "refused",
            "reason": "no",
        }
    ]
    text = server.run("status").stdout
    assert "3: 0 as wanted, 2 lagging, 1 failing" in text
    assert "web-3" in text
    assert "1 hosts would not have their bundle" in text


def test_root_key_goes_to_a_stick_and_comes_back_to_sign(server: Server, tmp_path: Path) -> None:
    server.json("init")
    secret = tmp_path / "passphrase"
    secret.write_text("long enough a phrase\n")
    stick = str(tmp_path / "root.pem")
    assert all(key["here"] for key in server.json("keys", "list"))
    given = ("--passphrase-file", str(secret))
    server.json("keys", "export-root", stick, *given, "--yes")
    assert [key["here"] for key in server.json("keys", "list")] == [False, True, True, True]
    assert "root" in server.run("keys", "list").stdout
    assert server.run("keys", "renew-root").exit_code == ExitCode.NOT_FOUND
    assert server.json("keys", "renew-root", "--root-key", stick, *given)["version"] == 2
    assert server.json("keys", "rotate", "targets", "--root-key", stick, *given)["root"] == 3
    asked = server.run(
        "keys", "rotate", "root", "--root-key", stick, stdin="long enough a phrase\n"
    )
    assert "The root key is" in asked.stdout
    assert "Root 5 is valid until" in server.run("keys", "renew-root").stdout
    again = server.run(
        "keys", "export-root", str(tmp_path / "b.pem"), "--yes", stdin="one phrase too short\n" * 2
    )
    assert again.exit_code == 0, again.output
    missing = server.run("keys", "renew-root", "--root-key", str(tmp_path / "none"), *given)
    assert missing.exit_code == ExitCode.FILE_ACCESS
    no_phrase = ("--passphrase-file", str(tmp_path / "none"))
    assert server.run("keys", "renew-root", "--root-key", stick, *no_phrase).exit_code == (
        ExitCode.FILE_ACCESS
    )
