"""``scripts/life-cycle``: the whole matrix, on each suite, over and over."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e import built
from tests.e2e.life_cycle import LifeCycle, run
from tests.e2e.sites import site


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/life-cycle",
        description="Installs, upgrades, downgrades, removes, reinstalls and purges the packages on"
        " booted hosts, each step whole and with the power cut in its middle, and shows whether an"
        " event, an identity or an edit was lost. Needs root. Prints JSON.",
    )
    parser.add_argument("--suites", default="bookworm,trixie", help="[default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[default: %(default)s]")
    parser.add_argument(
        "--from",
        dest="revision",
        metavar="REVISION",
        help="begin with packages of this commit [default: of the newest tag, else of this tree]",
    )
    parser.add_argument("--seed", type=int, help="of that run's instants [default: a new one]")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("booting hosts needs root")
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    say(f"seed {seed}")
    chance = random.Random(seed)
    began = time.monotonic()
    cuts = middle = rounds = 0
    with tempfile.TemporaryDirectory(prefix="sib-life-cycle-") as temporary:
        work = Path(temporary)
        path = built.pythons(work)
        built.build(work / "new", ["server", "agent"], path=path)
        version = built.previous(work / "old", path, given.revision)
        for suite in given.suites.split(","):
            for number in range(given.rounds):
                say(f"== {suite}, round {number + 1}: from {version}")
                folder = work / f"{suite}-{number}"
                with site(f"lc{os.getpid() % 10000}", suite, folder, ("server", "web-1")) as place:
                    outcome = run(
                        LifeCycle(place, chance, say), work / "old", work / "new", whole=True
                    )
                cuts += outcome.cuts
                middle += outcome.in_the_middle
                rounds += 1
    sys.stdout.write(
        json.dumps(
            {
                "seed": seed,
                "from": given.revision or version,
                "rounds": rounds,
                "power_cuts": cuts,
                "in_the_middle_of_a_command": middle,
                "lost_or_doubled_events": 0,
                "seconds": round(time.monotonic() - began),
            }
        )
        + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
