from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_packaging.manual import (
    PROGRAMS,
    Paragraph,
    escape,
    load_command,
    main,
    manual_files,
    pages,
    paragraphs,
    render,
)

EPOCH = 1_700_000_000


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_command_has_a_page_and_the_bytes_are_the_same(program: str) -> None:
    files = manual_files(program, "1.2.3", EPOCH, "deb")
    assert files == manual_files(program, "1.2.3", EPOCH, "deb")
    names = {Path(place).name for place in files if "/man1/" in place}
    expected = {f"{page.name}.1.gz" for page in pages(load_command(program), program)}
    assert names == expected
    assert f"{program}-status.1.gz" in names
    assert "1.2.3" in gzip.decompress(files[f"usr/share/man/man1/{program}.1.gz"]).decode()


def test_troff_has_nothing_to_say_against_the_pages(program: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff not found: install groff")
    for page in pages(load_command(program), program):
        text = render(page, "1.2.3", EPOCH)
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3", "-k"],
            input=text.encode(),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0
        assert done.stderr == b"", page.name
        shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout.decode())
        assert page.command in shown
        for term, _ in page.options:
            assert term.split(",")[0].split()[0] in shown


def test_examples_stay_as_they_are() -> None:
    assert paragraphs("Do it.\nNow.\n\n\b\nExamples:\n  a b\n\nEnd.") == (
        Paragraph(("Do it.", "Now.")),
        Paragraph(("Examples:", "  a b"), verbatim=True),
        Paragraph(("End.",)),
    )
    assert paragraphs("") == ()


@given(st.text())
def test_no_text_is_a_request_to_troff(text: str) -> None:
    escaped = escape(text)
    assert not escaped.startswith((".", "'"))
    assert "\n" not in escaped
    # Every backslash is one of the escapes that were put there.
    assert re.sub(r"\\(e|-|&|\([ahtqgi]{2})", "", escaped).count("\\") == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_take_the_completions(program: str, shell: str, tmp_path: Path) -> None:
    files = manual_files(program, "1", EPOCH, "rpm")
    (script,) = (files[place] for place in files if f"/{shell}" in place)
    assert program.encode() in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} not found: install {shell}")
    path = tmp_path / "script"
    path.write_bytes(script)
    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def test_a_hidden_command_has_no_page() -> None:
    group = click.Group("g", help="All.")
    group.add_command(click.Command("seen", help="Seen."))
    group.add_command(click.Command("unseen", hidden=True))
    assert [page.command for page in pages(group, "g")] == ["g", "g seen"]


def test_files_are_written_below_a_directory(tmp_path: Path) -> None:
    assert main([]) == 2
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "usr/share/man/man1/sib-agent.1.gz").is_file()
