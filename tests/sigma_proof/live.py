# ruff: noqa: E501 - the lines of a table
"""Fired or not, rule by rule."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.sigma_proof import engine
from tests.sigma_proof.meaning import judge


def main(arguments: list[str]) -> int:
    """Print the table; 1 where a rule did not fire or a near miss fired."""
    if engine.falco_program() is None or not engine.can_trace():
        print("skipped: needs root, cc, ip and a Falco (SIB_COMPONENTS)")
        return 0
    verdicts = judge([Path(argument) for argument in arguments])
    rows: dict[str, list[int]] = {}
    for verdict in verdicts:
        if (
            "CommandLine" not in verdict.act.fields
            or "TargetFilename" in verdict.act.fields
            or "Initiated" in verdict.act.fields
        ):
            continue
        row = rows.setdefault(verdict.title, [0, 0, 0, 0])
        meant = 0 if verdict.reference else 2
        row[meant] += 1
        row[meant + 1] += verdict.engine is verdict.reference
    for title, (starts, fired, misses, quiet) in sorted(rows.items()):
        word = "fired" if fired == starts and quiet == misses else "WRONG"
        print(
            f"{word:6} {fired:3}/{starts:<3} starts, quiet {quiet:3}/{misses:<3} near misses  {title}"
        )
    total = [sum(row[index] for row in rows.values()) for index in range(4)]
    print(
        f"{len(rows)} rules: {total[1]} of {total[0]} starts fired, {total[3]} of {total[2]} near misses quiet"
    )
    return 0 if total[0] == total[1] and total[2] == total[3] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
