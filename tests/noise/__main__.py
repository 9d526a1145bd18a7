"""How many events SIB's rules make of a busy host's ordinary work: `scripts/noise --minutes 60`.

The work runs in a mount namespace over a copy of this machine's files in memory, so nothing stays.
It carries the mark of drills, by which its events are told from the machine's other ones; those
are counted, too, but they are whatever else is done here.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from sib_protocol.drills.engine import Falco, falco_version
from sib_protocol.drills.marks import Mark, new_run
from tests.noise.figures import (
    CONTROL,
    figures,
    load_figures,
    rules_digest,
    save_figures,
    work_done,
)
from tests.support.engine import rule_files

HERE = Path(__file__).parent
WAYS = frozenset({"apt", "build", "container", "cron", "rotate", "ssh", "su", "sudo"})
# As root, in a mount namespace: the root is a layer in memory over the machine's own.
_COPY = """\
mount --make-rprivate / && mount -t tmpfs -o size=3g noise /mnt &&
mkdir /mnt/up /mnt/work /mnt/root &&
mount -t overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work noise /mnt/root &&
cd /mnt/root && mount --rbind /proc proc && mount --rbind /dev dev && mount --rbind /sys sys &&
mount -t tmpfs run run && mount -t tmpfs none sys/fs/cgroup &&
mkdir -p noise && cp "$1" "$2" noise &&
SIB_DRILL="$4/setup" chroot . sh /noise/prepare.sh "$4" || { cat var/tmp/noise/log >&2; exit 1; }
SIB_DRILL="$4" exec chroot . sh /noise/work.sh "$3" "$4"
"""
_CONTROL = f"""\
- rule: {CONTROL}
  desc: Tells that Falco saw a way of the work.
  condition: evt.type in (execve, execveat) and evt.res = SUCCESS and proc.name startswith noise-
  output: seen | process=%proc.name
  priority: DEBUG
"""


def work(seconds: int, mark: Mark) -> dict[str, int]:
    """Do ordinary work; how often what was done."""
    scripts = (HERE / "prepare.sh", HERE / "work.sh")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", _COPY, "noise", *scripts, str(seconds), str(mark)],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        stdout=subprocess.PIPE,
        timeout=seconds + 900,
        check=True,
    )
    return work_done(done.stdout.decode())


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/noise", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="put the figures beside those in this file")
    parser.add_argument("--samples", type=Path, help="write all alerts of the work here")
    options = parser.parse_args()
    program = Path(os.environ.get("SIB_COMPONENTS") or "/none") / "falco" / "falco"
    if os.geteuid() != 0 or not program.is_file():
        print("skipped: needs root and a Falco (SIB_COMPONENTS)")
        return 0
    mark = Mark(new_run(), 1)
    digest = rules_digest(path.read_bytes() for path in rule_files())
    with tempfile.TemporaryDirectory(prefix="sib-noise-") as name:
        control = Path(name, "control.yaml")
        control.write_text(_CONTROL)
        with Falco(program, [*rule_files(), control], Path(name)) as falco:
            done = work(round(options.minutes * 60), mark)
            alerts = falco.settle()
            lost = falco.lost()
    found = figures(
        alerts,
        mark.run,
        done,
        rules=digest,
        engine=falco_version(program),
        kernel=platform.release(),
        time=datetime.now(timezone.utc).isoformat(timespec="minutes"),
        minutes=options.minutes,
        lost=lost,
    )
    if options.samples:
        ours = [one for one in alerts if one.mark is not None and one.mark.run == mark.run]
        options.samples.write_text("".join(f"{one.priority} {one.output}\n" for one in ours))
    if options.out:
        save_figures(options.out, (*load_figures(options.out), found))
    print(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    if unseen := WAYS - set(found.seen):
        print(f"Falco did not see: {', '.join(sorted(unseen))}", file=sys.stderr)
    return 1 if found.above_notice or unseen else 0


if __name__ == "__main__":
    sys.exit(main())
