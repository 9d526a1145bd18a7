from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sib_packaging.components import Archive, parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.fetch import fetch
from sib_packaging.given import take

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LOCK = (Path(__file__).resolve().parents[3] / "packaging/components.lock").read_text()


class Web(ThreadingHTTPServer):
    """Serves CONTENT, and breaks off after ``most`` bytes of an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.most = len(CONTENT)
        self.ranges: list[str | None] = []
        self.with_ranges = True
        self.content = CONTENT


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        if self.path != "/x.tar.gz":
            self.send_error(404)
            return
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        start = 0
        if wanted and self.server.with_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        self.wfile.write(self.server.content[start : start + self.server.most])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def have(web: Web, cache: Path, sha256: str = SHA256, name: str = "x.tar.gz") -> Path:
    archive = Archive(f"http://127.0.0.1:{web.server_port}/{name}", sha256)
    return fetch(archive, cache, lambda _here, _all: None, tries=5, pause=0)


def test_a_broken_download_goes_on_where_it_ended_and_is_kept(web: Web, tmp_path: Path) -> None:
    web.most = 1_000_000
    path = have(web, tmp_path)
    assert path.read_bytes() == CONTENT
    assert web.ranges == [None, "bytes=1000000-", "bytes=2000000-"]
    assert have(web, tmp_path) == path
    assert len(web.ranges) == 3


def test_a_server_without_ranges_starts_over(web: Web, tmp_path: Path) -> None:
    web.with_ranges, web.most = False, 2_000_000
    with pytest.raises(PackagingError, match="ended early"):
        have(web, tmp_path)
    web.most = len(CONTENT)
    assert have(web, tmp_path).read_bytes() == CONTENT


def test_what_is_not_in_the_lock_is_refused_and_not_kept(web: Web, tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match="not what the lock says"):
        have(web, tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PackagingError, match="404"):
        have(web, tmp_path, name="other")


def test_a_spoilt_cache_is_fetched_anew(web: Web, tmp_path: Path) -> None:
    path = have(web, tmp_path)
    path.write_bytes(b"spoilt")
    assert have(web, tmp_path).read_bytes() == CONTENT


def test_an_architecture_without_a_checksum_is_named() -> None:
    lock = parse_lock(LOCK)
    assert set(lock) == {"loki", "prometheus", "grafana", "falcosidekick", "falco", "alloy"}
    assert {name for name, item in lock.items() if "amd64" in item.archives} == set(lock)
    with pytest.raises(PackagingError, match=r"loki 3\.7\.8 on arm64"):
        lock["loki"].archive("arm64")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('sha256 = "62ae', 'sha256 = "62AE', "64 hex digits"),
        ("https://github.com/grafana/loki/releases", "http://example.org", "no https URL"),
        ("version =", "versoin =", "no valid lock"),
        ("[loki]", "[loki", "no valid lock"),
    ],
)
def test_a_lock_that_cannot_be_trusted_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(PackagingError, match=said):
        parse_lock(LOCK.replace(old, new, 1))


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            opened.addfile(entry, io.BytesIO(content))
    return path


def test_only_the_wanted_files_are_taken(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "a.tar.gz", {"p-1/prog": b"1", "p-1/x/prog": b"no", "p-1/share/d/f": b"2"}
    )
    home = tmp_path / "home"
    take(archive, {"*/prog": "bin/prog", "*/share/": "share/"}, "amd64", home)
    found = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert found == {"bin/prog", "share/d/f"}
    zipped = tmp_path / "b.zip"
    with zipfile.ZipFile(zipped, "w") as opened:
        opened.writestr("loki-linux-arm64", b"3")
    take(zipped, {"loki-linux-{arch}": "loki"}, "arm64", home)
    assert (home / "loki").read_bytes() == b"3"
    assert (home / "loki").stat().st_mode & 0o777 == 0o755


def test_an_archive_that_leads_elsewhere_or_lacks_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackagingError, match="has a file"):
        take(tar(tmp_path / "a.tar.gz", {"../x": b""}), {"*/": ""}, "amd64", tmp_path / "home")
    with pytest.raises(PackagingError, match="has no prog"):
        take(tar(tmp_path / "b.tar.gz", {"x": b""}), {"prog": "prog"}, "amd64", tmp_path / "home")
