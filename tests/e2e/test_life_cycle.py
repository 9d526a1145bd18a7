"""Install, configure, upgrade, downgrade, remove, reinstall, purge; power cut in each: short."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.life_cycle import LifeCycle, run
from tests.e2e.sites import site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_nothing_is_lost_when_the_power_is_cut_in_any_step(
    packages: Path, older: Path, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    with site(f"lc{os.getpid() % 10000}", "bookworm", tmp_path, ("server", "web-1")) as place:
        outcome = run(LifeCycle(place, random.Random(seed), print), older, packages, whole=False)
    assert outcome.cuts == 15
    # The cuts were cuts, and not restarts between two steps.
    assert outcome.in_the_middle >= 6
