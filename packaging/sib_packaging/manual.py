"""Manual pages and shell completion of a command, made from the command itself.

``manual_files`` is what a package takes; ``python -m sib_packaging.manual DIR`` (``scripts/man``)
writes the same files below a directory.
"""

from __future__ import annotations

import gzip
import inspect
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = ("sib-server", "sib-agent")
_SECTION: Final = "1"
# Where bash, zsh and fish look; zsh's own folder is another on each family.
_COMPLETIONS: Final[tuple[tuple[type[ShellComplete], dict[str, str]], ...]] = (
    (BashComplete, dict.fromkeys(("deb", "rpm"), "usr/share/bash-completion/completions/{}")),
    (
        ZshComplete,
        {
            "deb": "usr/share/zsh/vendor-completions/_{}",
            "rpm": "usr/share/zsh/site-functions/_{}",
        },
    ),
    (FishComplete, dict.fromkeys(("deb", "rpm"), "usr/share/fish/vendor_completions.d/{}.fish")),
)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A part of a description.

    Attributes:
        lines: of text.
        verbatim: shown line by line, as examples are.
    """

    lines: tuple[str, ...]
    verbatim: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One manual page.

    Attributes:
        name: as its file is called: ``sib-server-token-create``.
        command: as it is typed: ``sib-server token create``.
        summary: one line.
        synopsis: what follows the command.
        description: the help, in paragraphs.
        options: (how it is written, what it does).
        commands: (name, what it does) of its sub-commands.
        related: names of the pages above and below.
    """

    name: str
    command: str
    summary: str
    synopsis: str
    description: tuple[Paragraph, ...]
    options: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    related: tuple[str, ...]


def paragraphs(text: str) -> tuple[Paragraph, ...]:
    """Split a help text as click does: a paragraph that begins with ``\\b`` stays as it is."""
    found = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = tuple(block.split("\n"))
        if lines[0].strip() == "\b":
            found.append(Paragraph(lines[1:], verbatim=True))
        elif any(lines):
            found.append(Paragraph(lines))
    return tuple(found)


def pages(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[Page]:
    """The page of a command, and of everything below it.

    Args:
        command: the command.
        name: as it is typed.
        parent: the context of the command above.
    """
    context = click.Context(command, info_name=name, parent=parent)
    below: list[tuple[str, click.Command]] = []
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            if found is not None and not found.hidden:
                below.append((word, found))
    typed = context.command_path
    dashed = typed.replace(" ", "-")
    records = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
    ]
    above = [parent.command_path.replace(" ", "-")] if parent is not None else []
    yield Page(
        name=dashed,
        command=typed,
        summary=command.get_short_help_str(limit=200).rstrip("."),
        synopsis=" ".join(command.collect_usage_pieces(context)),
        description=paragraphs(command.help or ""),
        options=tuple(record for record in records if record is not None),
        commands=tuple((word, found.get_short_help_str(limit=200)) for word, found in below),
        related=(*above, *(f"{dashed}-{word}" for word, _ in below)),
    )
    for word, found in below:
        yield from pages(found, word, context)


def escape(text: str) -> str:
    """A text as troff shows it again: nothing in it is a request or an escape sequence."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    escaped = escaped.replace("^", "\\(ha").replace("~", "\\(ti").replace("`", "\\(ga")
    escaped = "".join(sign if sign.isprintable() else " " for sign in escaped)
    # A dot at a line's beginning would be a request.
    return "\\&" + escaped if escaped.startswith(".") else escaped


def render(page: Page, version: str, epoch: int) -> str:
    """A page as troff's man macros.

    Args:
        page: the page.
        version: SIB's.
        epoch: its date, seconds since 1970 UTC.
    """
    date = f"{datetime.fromtimestamp(epoch, tz=timezone.utc):%Y-%m-%d}"
    out = [
        f'.TH "{escape(page.name.upper())}" "{_SECTION}" "{date}" "SIB {escape(version)}"'
        ' "SIEM in a Box"',
        ".SH NAME",
        f"{escape(page.name)} \\- {escape(page.summary)}",
        ".SH SYNOPSIS",
        f".B {escape(page.command)}",
    ]
    if page.synopsis:
        out.append(escape(page.synopsis))
    out.append(".SH DESCRIPTION")
    for paragraph in page.description:
        out.append(".PP")
        if paragraph.verbatim:
            out += [".nf", *map(escape, paragraph.lines), ".fi"]
        else:
            out += [escape(line.strip()) for line in paragraph.lines]
    for title, entries in (("OPTIONS", page.options), ("COMMANDS", page.commands)):
        if entries:
            out.append(f".SH {title}")
        for term, text in entries:
            out += [".TP", f".B {escape(term)}", escape(" ".join(text.split()))]
    if page.related:
        out.append(".SH SEE ALSO")
        related = [f".BR {escape(name)} ({_SECTION})" for name in page.related]
        out += [f"{line} ," for line in related[:-1]] + related[-1:]
    return "\n".join(out) + "\n"


def load_command(program: str) -> click.Command:
    """The command of ``sib-server`` or ``sib-agent``."""
    # Only here: the one is not needed to build the other's package.
    if program == "sib-server":
        from sib_server.cli import main as server  # noqa: PLC0415

        return server
    from sib_agent.cli import main as agent  # noqa: PLC0415

    return agent


def completion(shell: type[ShellComplete], command: click.Command, program: str) -> str:
    """The script by which a shell completes a program's commands and options."""
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    maker = shell(command, {}, program, variable)
    # Not BashComplete.source(): it asks the building machine's bash for its version.
    return ShellComplete.source(maker)


def manual_files(program: str, version: str, epoch: int, package_format: str) -> dict[str, bytes]:
    """Every manual page and completion script of a program.

    Args:
        program: ``sib-server`` or ``sib-agent``.
        version: SIB's.
        epoch: SOURCE_DATE_EPOCH.
        package_format: ``deb`` or ``rpm``.

    Returns:
        Place below ``/`` -> content; the same bytes for the same input.
    """
    command = load_command(program)
    files = {
        f"usr/share/man/man{_SECTION}/{page.name}.{_SECTION}.gz": gzip.compress(
            render(page, version, epoch).encode(), 9, mtime=0
        )
        for page in pages(command, program)
    }
    for shell, places in _COMPLETIONS:
        place = places[package_format].format(program)
        files[place] = completion(shell, command, program).encode()
    return files


def main(arguments: list[str]) -> int:
    """Write both programs' files below a directory. Returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: scripts/man DIR\n")
        return 2
    from sib_protocol import __version__  # noqa: PLC0415

    target = Path(arguments[0])
    for program in PROGRAMS:
        for place, content in manual_files(program, __version__, 0, "deb").items():
            path = target / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    sys.stderr.write(f"man --local-file {target}/usr/share/man/man1/sib-server.1.gz\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
