"""``scripts/bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import bundle_agents, bundles, checks, each_request, events, fleet, rules, sigma

PARTS = ["rest", "journal", "one", "fifty", "rivals", "latency"]


def show(result: dict[str, Any]) -> None:
    json.dump(result, sys.stdout, indent=2)
    print()


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
    two = commands.add_parser("fleet", help="simulated hosts with real identities")
    two.add_argument("--hosts", type=int, action="append", help="default: 500, 1500, 5000")
    two.add_argument("--seconds", type=float, default=90.0, help="steady state, for each size")
    three = commands.add_parser("bundles", help="a fleet fetches a bundle while others send events")
    three.add_argument("--hosts", type=int, default=5000)
    three.add_argument("--bytes", type=int, default=1_000_000, help="of the bundle's archive")
    three.add_argument("--interval", type=float, default=30.0, help="between health reports")
    three.add_argument("--pulls", type=float, default=40.0, help="the setting pulls_per_second")
    three.add_argument(
        "--agents", type=int, help="instead: so many real agents, and how soon they have it"
    )
    three.add_argument("--rounds", type=int, default=5, help="bundles for real agents")
    five = commands.add_parser("requests", help="the server's CPU for one request of each kind")
    five.add_argument("--bytes", type=int, default=1_000_000, help="of a bundle's part")
    five.add_argument("--seconds", type=float, default=8.0, help="for each kind")
    four = commands.add_parser("rules", help="Falco's CPU with SIB's rules and without them")
    four.add_argument("--rounds", type=int, default=6)
    four.add_argument("--seconds", type=float, default=20.0, help="of the paced load")
    four.add_argument("--load", action="append", choices=list(rules.LOADS), help="default: all")
    four.add_argument("--each", action="store_true", help="every file of rules by itself, too")
    four.add_argument("--path", default=rules.HOST_PATH, help="where the loads look for programs")
    seven = commands.add_parser("checks", help="what Falco pays for one check of a condition")
    seven.add_argument("--rounds", type=int, default=4)
    seven.add_argument("--seconds", type=float, default=15.0, help="of the load that is recorded")
    six = commands.add_parser("sigma", help="conversion of Sigma rules, as a whole command")
    six.add_argument("path", type=Path, help="a folder of Sigma rules")
    six.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    show(RUNS[given.command](given))


def run_rules(given: argparse.Namespace) -> dict[str, Any]:
    return rules.run(
        given.load or list(rules.LOADS),
        rounds=given.rounds,
        seconds=given.seconds,
        each=given.each,
        path=given.path,
    )


def run_bundles(given: argparse.Namespace) -> dict[str, Any]:
    if given.agents is not None:
        return bundle_agents.run(given.agents, given.rounds, given.bytes)
    return bundles.run(given.hosts, given.bytes, given.interval, given.pulls)


def run_events(given: argparse.Namespace) -> dict[str, Any]:
    folder = os.environ.get("SIB_COMPONENTS")
    real = not given.fake and folder is not None and (Path(folder) / "loki" / "loki").is_file()
    return events.run(given.part or PARTS, seconds=given.seconds, rate=given.rate, real=real)


RUNS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "events": run_events,
    "fleet": lambda given: fleet.run(given.hosts or [500, 1500, 5000], given.seconds),
    "bundles": run_bundles,
    "requests": lambda given: each_request.run(given.bytes, given.seconds),
    "rules": run_rules,
    "checks": lambda given: checks.run(given.seconds, given.rounds),
    "sigma": lambda given: sigma.run(given.path, given.rounds),
}


if __name__ == "__main__":
    main()
