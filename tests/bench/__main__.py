"""``scripts/bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tests.bench import events

PARTS = ["rest", "journal", "one", "fifty", "latency"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures SIB on this machine and prints JSON. Real programs are taken from "
        "the folder that SIB_COMPONENTS names.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("events", help="from Falco's file to the journal and Loki")
    one.add_argument("--seconds", type=float, default=60.0)
    one.add_argument("--rate", type=float, default=60_000, help="events a second that are offered")
    one.add_argument("--part", action="append", choices=PARTS, help="default: all")
    one.add_argument("--fake", action="store_true", help="a fake Loki even where a real one is")
    given = parser.parse_args()
    folder = os.environ.get("SIB_COMPONENTS")
    real = not given.fake and folder is not None and (Path(folder) / "loki" / "loki").is_file()
    result = events.run(given.part or PARTS, seconds=given.seconds, rate=given.rate, real=real)
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
