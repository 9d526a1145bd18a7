from __future__ import annotations

import datetime
import json
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sib_packaging import update
from sib_packaging.components import Archive, parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.releases import github_release, grafana_release, newer, parse_sums, rewrite
from sib_packaging.update import Places, get, propose

LOCK = (Path(__file__).resolve().parents[3] / "packaging/components.lock").read_text()
COMPONENTS = parse_lock(LOCK)
LOKI = COMPONENTS["loki"]
A, B, C = "a" * 64, "b" * 64, "c" * 64


class Web(ThreadingHTTPServer):
    """Answers over TLS what it is told to."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answers: dict[str, bytes | int | str] = {}
        self.tokens: list[str | None] = []

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers["Authorization"])
        answer = self.server.answers.get(self.path, 404)
        if isinstance(answer, str):
            self.send_response(302)
            self.send_header("Location", answer)
            self.end_headers()
        elif isinstance(answer, int):
            self.send_error(answer)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def web(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Web(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def release(version: str, digests: dict[str, str | None], **more: object) -> bytes:
    """As GitHub's interface answers, less the fields that nobody reads."""
    base = f"https://github.com/grafana/loki/releases/download/v{version}"
    assets = [
        {
            "name": name,
            "browser_download_url": f"{base}/{name}",
            "digest": digest and f"sha256:{digest}",
            "size": 1,
        }
        for name, digest in digests.items()
    ]
    return json.dumps(
        {"tag_name": f"v{version}", "prerelease": False, "assets": assets, **more}
    ).encode()


def places(web: Web) -> Places:
    return Places(web.url, web.url, web.url)


LATEST = "/repos/grafana/loki/releases/latest"
BOTH: dict[str, str | None] = {"loki-linux-amd64.zip": A, "loki-linux-arm64.zip": B}


def test_a_newer_version_is_proposed_with_what_is_published(web: Web) -> None:
    web.answers[LATEST] = release("3.8.0", BOTH)
    text, said = propose(LOCK, LOKI, places(web), "secret")
    assert said == "3.7.8 -> 3.8.0"
    assert web.tokens == ["Bearer secret"]
    proposed = parse_lock(text)
    base = "https://github.com/grafana/loki/releases/download/v3.8.0"
    assert proposed["loki"] == replace(
        LOKI,
        version="3.8.0",
        archives={
            "amd64": Archive(f"{base}/loki-linux-amd64.zip", A),
            "arm64": Archive(f"{base}/loki-linux-arm64.zip", B),
        },
    )
    assert {n: c for n, c in proposed.items() if n != "loki"} == {
        n: c for n, c in COMPONENTS.items() if n != "loki"
    }
    assert text.startswith(LOCK[: LOCK.index("\n\n")])


def test_a_file_of_checksums_stands_in_and_must_agree(web: Web) -> None:
    web.answers[LATEST] = release("3.8.0", {"loki-linux-amd64.zip": None, "SHA256SUMS": C})
    sums = "/grafana/loki/releases/download/v3.8.0/SHA256SUMS"
    web.answers[sums] = f"{A}  loki-linux-amd64.zip\n".encode()
    text, _ = propose(LOCK, LOKI, places(web), None)
    assert parse_lock(text)["loki"].archives["amd64"].sha256 == A
    web.answers[LATEST] = release("3.8.0", {"loki-linux-amd64.zip": B, "SHA256SUMS": C})
    with pytest.raises(PackagingError, match="two checksums"):
        propose(LOCK, LOKI, places(web), None)


def test_without_a_published_checksum_nothing_changes(web: Web) -> None:
    web.answers[LATEST] = release("3.8.0", {"loki-linux-amd64.zip": None})
    text, said = propose(LOCK, LOKI, places(web), None)
    assert text == LOCK
    assert "no checksum is published" in said
    falco = json.dumps({"tag_name": "0.45.0", "assets": []}).encode()
    web.answers["/repos/falcosecurity/falco/releases/latest"] = falco
    text, said = propose(LOCK, COMPONENTS["falco"], places(web), None)
    assert (text, "amd64: left at 0.44.1" in said) == (LOCK, True)


def test_the_locked_version_gets_what_it_lacks_and_is_compared(web: Web) -> None:
    locked = LOKI.archives["amd64"].sha256
    web.answers[LATEST] = release("3.7.8", {**BOTH, "loki-linux-amd64.zip": locked})
    text, said = propose(LOCK, LOKI, places(web), None)
    assert "arm64 found" in said
    assert parse_lock(text)["loki"].archives["arm64"].sha256 == B
    web.answers[LATEST] = release("3.7.8", {"loki-linux-amd64.zip": locked})
    assert propose(LOCK, LOKI, places(web), None) == (LOCK, "3.7.8 is the newest")
    web.answers[LATEST] = release("3.7.8", BOTH)
    with pytest.raises(PackagingError, match="the lock has another"):
        propose(LOCK, LOKI, places(web), None)


def test_an_older_latest_is_no_news(web: Web) -> None:
    web.answers[LATEST] = release("3.6.9", BOTH)
    locked = LOKI.archives["amd64"].sha256
    web.answers["/repos/grafana/loki/releases/tags/v3.7.8"] = release(
        "3.7.8", {"loki-linux-amd64.zip": locked}
    )
    assert propose(LOCK, LOKI, places(web), None) == (LOCK, "3.7.8 is the newest")


def test_grafana_answers_in_its_own_way(web: Web) -> None:
    packages = [
        {
            "os": "linux",
            "arch": arch,
            "url": f"https://dl.grafana.com/grafana/release/13.2.0/grafana_13.2.0_99_linux_{arch}.tar.gz",
            "sha256": sha256,
        }
        for arch, sha256 in (("amd64", A), ("arm64", B), ("armv7", C))
    ]
    body = {"version": "13.2.0", "packages": packages}
    web.answers["/api/grafana/versions/stable"] = json.dumps(body).encode()
    text, said = propose(LOCK, COMPONENTS["grafana"], places(web), "secret")
    assert said == "13.1.3 -> 13.2.0"
    assert web.tokens == [None]
    assert {n: a.sha256 for n, a in parse_lock(text)["grafana"].archives.items()} == {
        "amd64": A,
        "arm64": B,
    }
    packages[0]["url"] = 'https://dl.grafana.com/x"\nsha256="x.tar.gz'
    assert set(grafana_release(json.dumps(body).encode()).assets) == {"arm64"}


def test_only_the_projects_own_release_counts() -> None:
    other = release("3.8.0", BOTH).replace(b"grafana/loki", b"evil/loki")
    assert github_release(other, "grafana/loki").assets == {}
    named = release("3.8.0", {'x"y': A, "../x": B})
    assert github_release(named, "grafana/loki").assets == {}
    for body in (b"", b"[]", b'{"tag_name": 3}', b'{"tag_name": "v3-rc.1"}', b"[" * 100_000):
        with pytest.raises(PackagingError):
            github_release(body, "grafana/loki")
    for body in (b"{}", b'{"version": "13.0.0-pre"}'):
        with pytest.raises(PackagingError):
            grafana_release(body)


def test_an_answer_is_bounded_verified_and_never_downgraded(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.answers["/large"] = b" " * (4 * 1024**2 + 1)
    web.answers["/away"] = "http://localhost/"
    web.answers["/other"] = f"{web.url}/there"
    web.answers["/there"] = b"here"
    with pytest.raises(PackagingError, match="larger"):
        get(f"{web.url}/large")
    with pytest.raises(PackagingError, match="no https"):
        get(f"{web.url}/away")
    with pytest.raises(PackagingError, match="HTTP 404"):
        get(f"{web.url}/nowhere")
    web.tokens.clear()
    assert get(f"{web.url}/other", "secret") == b"here"
    assert web.tokens == ["Bearer secret", None]
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(PackagingError, match="CERTIFICATE_VERIFY_FAILED"):
        get(f"{web.url}/there")


def test_the_command_writes_only_when_told(
    web: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lock = tmp_path / "lock"
    lock.write_text(LOCK)
    web.answers[LATEST] = release("3.8.0", BOTH)
    arguments = ["x", "--lock", str(lock), "loki"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert update.main(places(web)) == 0
    assert '+version = "3.8.0"\n' in capsys.readouterr().out
    assert lock.read_text() == LOCK
    monkeypatch.setattr(sys, "argv", [*arguments, "falco", "--write"])
    # Falco's release is not to be had: that is said, and the rest is done.
    assert update.main(places(web)) == 1
    assert "falco: error:" in capsys.readouterr().err
    assert parse_lock(lock.read_text())["loki"].version == "3.8.0"


@given(
    st.sampled_from(sorted(COMPONENTS)),
    st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True),
    st.dictionaries(
        st.sampled_from(["amd64", "arm64"]), st.text("0123456789abcdef", min_size=64, max_size=64)
    ),
)
def test_a_rewritten_lock_says_just_that(name: str, version: str, sums: dict[str, str]) -> None:
    new = {arch: Archive(f"https://x.example/{arch}.zip", sha256) for arch, sha256 in sums.items()}
    before = COMPONENTS[name]
    after = parse_lock(rewrite(LOCK, before, version, new))
    assert after.pop(name) == replace(before, version=version, archives={**before.archives, **new})
    assert after == {other: item for other, item in COMPONENTS.items() if other != name}


def test_versions_and_sums_are_read_as_people_write_them() -> None:
    assert newer("3.10.0", "3.9.9")
    assert not newer("3.9", "3.9")
    assert parse_sums(f"{A} *x.zip\n{B.upper()}  ./d/y.zip\nno sum\n{C}\n") == {
        "x.zip": A,
        "y.zip": B,
    }
