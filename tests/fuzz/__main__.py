"""``scripts/fuzz``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from importlib.metadata import version

from tests.fuzz.mutate import fuzz
from tests.fuzz.targets import make_targets

PACKAGES = ("cryptography", "msgspec", "cramjam", "protobuf", "pyyaml", "prometheus-client")


def main() -> None:
    targets = make_targets()
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Feeds mutated inputs to every parser that reads what others say, and prints"
        " JSON. Leaves with 1 if one raised what it must not, or took too long.",
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs")
    parser.add_argument("--target", action="append", choices=[one.name for one in targets])
    given = parser.parse_args()
    chosen = [one for one in targets if not given.target or one.name in given.target]
    each = -(-given.inputs // len(chosen))
    start = time.monotonic()
    outcomes = []
    for target in chosen:
        outcome = fuzz(target, each, given.seed)
        outcomes.append(outcome)
        print(
            f"{outcome.name}: {outcome.inputs} inputs, {outcome.seconds:.1f} s,"
            f" {len(outcome.crashes)} crashes",
            file=sys.stderr,
        )
    json.dump(
        {
            "seed": given.seed,
            "inputs": sum(outcome.inputs for outcome in outcomes),
            "seconds": round(time.monotonic() - start, 1),
            "crashes": sum(len(outcome.crashes) for outcome in outcomes),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "packages": {name: version(name) for name in PACKAGES},
            "targets": [asdict(outcome) for outcome in outcomes],
        },
        sys.stdout,
        indent=2,
    )
    print()
    sys.exit(any(outcome.crashes for outcome in outcomes))


if __name__ == "__main__":
    main()
