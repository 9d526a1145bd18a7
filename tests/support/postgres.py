"""A private PostgreSQL from the system's own binaries: a temporary directory, a Unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg


def find_binaries() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


@dataclass(frozen=True)
class Cluster:
    socket: Path

    def new_database(self) -> str:
        """Make an empty database; returns its URL in SIB's settings."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(
            host=str(self.socket), user="sib", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://sib@/{name}?host={self.socket}"


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def private_cluster(binaries: Path) -> Iterator[Cluster]:
    user = _user()
    home = Path(tempfile.mkdtemp(prefix="sib-pg-"))
    if user is not None:
        shutil.chown(home, user)

    def run(*command: str) -> None:
        subprocess.run(
            command,
            cwd=home,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )

    data = str(home / "data")
    control = str(binaries / "pg_ctl")
    try:
        run(
            *(str(binaries / "initdb"), "-D", data, "-U", "sib", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        )
        options = f"-k {home} -c listen_addresses='' -c fsync=off -c max_connections=100"
        run(control, "-D", data, "-w", "-t", "50", "-l", str(home / "log"), "-o", options, "start")
        try:
            yield Cluster(home)
        finally:
            run(control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
