"""lintian and rpmlint have no error to say that packaging/lint does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sib_packaging.build import Build, build_component, build_python
from sib_packaging.components import parse_lock
from sib_packaging.packages import AGENT
from tests.support.lint import LINT, lintian, rpmlint

ROOT = Path(__file__).resolve().parents[3]
LOCK = parse_lock((ROOT / "packaging/components.lock").read_text())

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def packages(work: Path, package_format: str) -> Sequence[Path]:
    """The agent's, and those of a component that is one program and of one with plugins.

    Those that other tests build are linted there.
    """
    program = Path("/bin/true").read_bytes()
    for name in ("loki/loki", "falco/falco", "falco/plugins/libcontainer.so"):
        path = work / "components" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(program)
        path.chmod(0o755)
    build = Build(
        root=ROOT,
        output=work / "dist",
        cache=Path.home() / ".cache/sib-packages",
        architecture="amd64",
        package_format=package_format,
        version="1.2.3",
        epoch=1_700_000_000,
        components=work / "components",
        falco=None,
        say=lambda _text: None,
    )
    components = [build_component(build, LOCK[name]) for name in ("loki", "falco")]
    return [build_python(build, AGENT), *components]


def test_lintian(tmp_path: Path) -> None:
    assert lintian(packages(tmp_path, "deb")) == ""


def test_rpmlint(tmp_path: Path) -> None:
    assert rpmlint(packages(tmp_path, "rpm")) == []


@pytest.mark.parametrize("name", ["lintian.overrides", "rpmlint.toml"])
def test_every_exception_is_explained(name: str) -> None:
    explained = False
    for line in (LINT / name).read_text().splitlines():
        text = line.strip()
        if text.startswith("#"):
            explained = True
        elif not text or text in {"Filters = [", "]"}:
            explained = explained and bool(text)
        else:
            assert explained, line
