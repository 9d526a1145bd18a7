"""``scripts/chaos``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.harness import Options, Run, new_seed, say


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Breaks a whole SIB over and over and shows whether an event was lost or"
        " doubled. Prints JSON; ends with 1 when the promise was broken. Loki and Falcosidekick are"
        " taken from the folder that SIB_COMPONENTS names, else strict fakes stand in.",
    )
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, help="replays that run's faults; default: a new one")
    parser.add_argument(
        "--pace", type=float, default=1.2, help="seconds between faults, on average"
    )
    parser.add_argument("--rate", type=float, default=120.0, help="events written a second")
    parser.add_argument("--settle", type=float, default=300.0, help="seconds allowed afterwards")
    parser.add_argument("--fake", action="store_true", help="fakes even where real ones are")
    parser.add_argument("--directory", type=Path, help="for logs; kept. Default: a new one in /tmp")
    given = parser.parse_args()
    # So that whoever ends it leaves no process and no mount behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = new_seed() if given.seed is None else given.seed
    say(f"seed {seed}")
    folder = os.environ.get("SIB_COMPONENTS")
    programs = ("loki/loki", "falcosidekick/falcosidekick")
    real = folder is not None and all((Path(folder) / name).is_file() for name in programs)
    directory = given.directory or Path(tempfile.mkdtemp(prefix="sib-chaos-"))
    say(f"logs in {directory}")
    result = Run(
        Options(
            directory=directory.resolve(),
            faults=given.faults,
            seed=seed,
            pace=given.pace,
            rate=given.rate,
            real=real and not given.fake,
            settle=given.settle,
        )
    ).run()
    json.dump(result, sys.stdout, indent=2)
    print()
    sys.exit(0 if result["verdict"] == "kept" else 1)


if __name__ == "__main__":
    main()
