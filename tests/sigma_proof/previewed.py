"""The evaluator's judgement of an act: what Falco's fields would be, without Falco."""

from __future__ import annotations

import posixpath
from ipaddress import ip_address
from typing import Any

from sib_server.detection.sigma.convert import Conversion
from sib_server.detection.sigma.preview import compile_condition
from tests.sigma_proof.actions import ROOT_USERS, Act

Fields = dict[str, Any]


def judge(conversion: Conversion, act: Act) -> bool:
    """Whether one of the act's events satisfies the converted rule."""
    lists = {one["list"]: one["items"] for one in conversion.documents if "list" in one}
    test = compile_condition(str(conversion.documents[-1]["condition"]), lists)
    process = _process(act)
    return any(test({**process, **event}) for event in ({"evt.type": "execve"}, _event(act)))


def _process(act: Act) -> Fields:
    return {
        "proc.exe": act.argv[0],
        "proc.exeline": f"{act.argv[0]} {' '.join(act.argv[1:])}",
        "proc.cmdnargs": len(act.argv) - 1,
        **{f"proc.args[{n}]": "" for n in range(64)},
        **{f"proc.args[{n}]": text for n, text in enumerate(act.argv[1:])},
        "proc.exepath": act.image,
        "proc.name": posixpath.basename(act.started_as or act.image)[:15],
        "proc.pexe": act.parent_argv[0],
        "proc.aargs[1]": " ".join(act.parent_argv[1:]),
        "proc.pexepath": act.parent_image,
        "proc.cwd": act.cwd if act.cwd == "/" else f"{act.cwd}/",
        "user.name": ROOT_USERS[act.uid],
        "user.uid": act.uid,
        "evt.rawres": 0,
    }


def _event(act: Act) -> Fields:
    verb, *words = act.words
    if verb in {"write", "read"}:
        created = verb == "write" and words[0] not in act.existing
        return {
            "evt.type": "openat",
            "fd.num": 3,
            "fd.name": words[0],
            "evt.is_open_write": "true" if verb == "write" else "false",
            "evt.is_open_create": "true" if created else "false",
        }
    if verb == "rename":
        return {"evt.type": "rename", "fs.path.source": words[0], "fs.path.target": words[1]}
    if verb == "link":
        return {"evt.type": "symlink", "fs.path.source": words[1], "fs.path.target": words[0]}
    if verb in {"connect", "connect_ok"}:
        # Falco compares addresses, not how they were spelled.
        place = ip_address(words[0])
        return {
            "evt.type": "connect",
            "fd.typechar": str(place.version),
            "evt.res": "SUCCESS" if verb == "connect_ok" else "EINPROGRESS",
            "fd.sip": str(place),
            "fd.snet": str(place),
            "fd.sport": int(words[1]),
        }
    if verb == "query":
        name = "".join(f".{label}" for label in words[2].split("."))
        return {
            "evt.type": "sendto",
            "fd.l4proto": "udp",
            "fd.sport": 53,
            "evt.arg.data": f".4..........{name}.....",
        }
    return {"evt.type": "execve" if verb == "exit" else verb}
