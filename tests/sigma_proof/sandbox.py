"""Runs acts in a throw-away root: own mounts, own network, nothing of the host's files.

Run as `python -m tests.sigma_proof.sandbox ACTOR < acts.json > results.json`, as root. It prints
a list with, for each act, the process id of the program that acted, or ``null`` with the reason.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_PRIVATE, MS_REC, MNT_DETACH = 1 << 18, 16384, 2


def enter(actor: Path) -> None:
    """Leave the host's files and network behind."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), name)

    call("unshare", CLONE_NEWNS | CLONE_NEWNET)
    for command in (
        ("link", "set", "lo", "up"),
        ("link", "add", "sib0", "type", "veth", "peer", "name", "sib1"),
        ("link", "set", "sib1", "up"),
        ("addr", "add", "192.0.2.2/24", "dev", "sib0"),
        ("addr", "add", "2001:db8::2/64", "dev", "sib0", "nodad"),
        ("link", "set", "sib0", "up"),
        ("route", "add", "default", "dev", "sib0"),
        ("-6", "route", "add", "default", "dev", "sib0"),
    ):
        subprocess.run(("ip", *command), check=False, capture_output=True)
    call("mount", None, b"/", None, MS_PRIVATE | MS_REC, None)
    root = tempfile.mkdtemp(prefix="sib-sigma-")
    call("mount", b"tmpfs", root.encode(), b"tmpfs", 0, b"size=256m,mode=755")
    shutil.copy(actor, f"{root}/.actor")
    Path(f"{root}/.actor").chmod(0o755)
    Path(f"{root}/.old").mkdir()
    os.chdir(root)
    # pivot_root has no wrapper in libc.
    if libc.syscall(155, b".", b".old") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    call("umount2", b"/.old", MNT_DETACH)
    Path("/.old").rmdir()
    for folder in ("tmp", "opt/links", "opt/sib", ".s"):
        Path("/", folder).mkdir(parents=True, exist_ok=True)
    Path("/tmp").chmod(0o1777)


def program(path: str) -> None:
    """The stand-in at a path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and not os.access(target, os.X_OK):
        target.unlink()
    if not target.exists():
        os.link("/.actor", path)


def specification(number: str, words: list[str]) -> str:
    """A file of words for the stand-in."""
    path = f"/.s/{number}"
    Path(path).write_bytes(b"".join(word.encode() + b"\0" for word in words))
    Path(path).chmod(0o644)
    return path


def run(number: int, act: dict[str, Any]) -> dict[str, Any]:
    """Do one act."""
    try:
        program(act["image"])
        program(act["parent_image"])
        if act["cwd"] != "/":
            Path(act["cwd"]).mkdir(parents=True, exist_ok=True)
        for name in act["existing"]:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        words = act["words"]
        created = {"write": words[1:2], "rename": words[2:3], "link": words[2:3]}.get(words[0], [])
        for name in created:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            if not Path(name).is_dir() and name not in act["existing"]:
                Path(name).unlink(missing_ok=True)
        if words[0] == "mknod":
            Path(words[1]).unlink(missing_ok=True)
        path = act["image"]
        if act["started_as"]:
            path = act["started_as"]
            Path(path).unlink(missing_ok=True)
            Path(path).symlink_to(act["image"])
        leaf = specification(f"{number}", words)
        top = specification(
            f"{number}p",
            ["start", path, act["cwd"], str(act["uid"]), leaf, *act["argv"]],
        )
        done = subprocess.run(
            act["parent_argv"],
            executable=act["parent_image"],
            env={"SIB_SPEC": top},
            capture_output=True,
            timeout=20,
            check=False,
        )
        for leftover in (leaf, top):
            Path(leftover).unlink()
        pid, code = (int(part) for part in done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return {"pid": None, "why": f"{type(error).__name__}: {error}"}
    return {"pid": pid if code == 0 else None, "why": None if code == 0 else f"exit {code}"}


def main() -> None:
    acts = json.load(sys.stdin)
    enter(Path(sys.argv[1]))
    results = [run(number, act) for number, act in enumerate(acts)]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
