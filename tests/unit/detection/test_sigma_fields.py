# ruff: noqa: E501 - a table row is one line
"""Each kind of field says in Falco exactly what Sigma's comparison says.

The judge of Sigma's side is written here, from its specification; of Falco's side the preview, which
`scripts/sigma-meaning` holds against the real engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_server.detection.sigma import regex
from sib_server.detection.sigma.condition import FALSE, TRUE, Node, bare, check, render
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.fields import (
    Address,
    Directory,
    Numeric,
    Path,
    Text,
)
from sib_server.detection.sigma.preview import compile_condition
from sib_server.detection.sigma.regex import Flags
from sib_server.detection.sigma.special_fields import (
    Absent,
    Choice,
    Constant,
    QueriedName,
    Unavailable,
)
from sib_server.detection.sigma.text import Pattern, Wild, pattern
from sib_server.detection.sigma.views import COMMAND_LINE, PARENT_COMMAND_LINE

LETTERS = "aAbB /\\*?[]\"'-\n"
WORDS = st.text(LETTERS, max_size=4)
PATTERNS = st.builds(
    lambda parts, cased: pattern(tuple(parts), cased=cased),
    st.lists(
        st.one_of(st.sampled_from(Wild), st.text(LETTERS, min_size=1, max_size=3)), max_size=5
    ),
    st.booleans(),
)


def sigma_says(wanted: Pattern, value: str) -> bool:
    shape = "".join(
        {"*": ".*", "?": "."}[p.value] if isinstance(p, Wild) else re.escape(p)
        for p in wanted.parts
    )
    flags = re.DOTALL if wanted.cased else re.DOTALL | re.IGNORECASE
    return re.fullmatch(shape, value, flags) is not None


def falco_says(node: Node, fields: Mapping[str, str | int]) -> bool:
    if node in (TRUE, FALSE):
        return node == TRUE
    return compile_condition(render(node))(fields)


@given(PATTERNS, st.lists(WORDS, min_size=1, max_size=4))
def test_a_command_line_is_the_arguments_joined_with_spaces(
    wanted: Pattern, argv: list[str]
) -> None:
    # As Falco has it: argv[0], a space, the rest joined.
    fields: dict[str, str | int] = {
        "proc.exe": argv[0],
        "proc.exeline": f"{argv[0]} {' '.join(argv[1:])}",
        "proc.cmdnargs": len(argv) - 1,
    }
    assert falco_says(COMMAND_LINE.text(wanted), fields) == sigma_says(wanted, " ".join(argv))


@given(PATTERNS, st.lists(st.text("aB-x ", min_size=1, max_size=3), min_size=1, max_size=3))
def test_so_is_the_parents(wanted: Pattern, argv: list[str]) -> None:
    fields = {"proc.pexe": argv[0], "proc.aargs[1]": " ".join(argv[1:])}
    assert falco_says(PARENT_COMMAND_LINE.text(wanted), fields) == sigma_says(
        wanted, " ".join(argv)
    )


@given(PATTERNS, st.lists(st.text("aA.*[", min_size=1, max_size=3), max_size=3))
def test_a_directory_has_no_slash_at_its_end_but_the_root(
    wanted: Pattern, parts: list[str]
) -> None:
    directory = "/" + "/".join(parts)
    fields = {"proc.cwd": directory if directory == "/" else f"{directory}/"}
    assert falco_says(Directory("proc.cwd").text(wanted), fields) == sigma_says(wanted, directory)


@given(PATTERNS, st.lists(st.text("aA.*[\\", min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_path_is_compared_whole_or_by_its_last_part(wanted: Pattern, parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    fields = {"proc.exepath": path}
    assert falco_says(Path("proc.exepath").text(wanted), fields) == sigma_says(wanted, path)


@pytest.mark.parametrize(
    ("expression", "flags"),
    [
        ("-D", Flags()),
        ("(.){3,}", Flags()),
        (r"\s-[FTd]\s", Flags()),
        (r"(?:\s-[^-\s]{0,20}i|\s--inode\s)", Flags()),
        (r"(^|\/)\.[^.\/]", Flags()),
        (r"^a.*b$", Flags()),
        (r"(?i)^A\d{2}$", Flags()),
        ("[A-C]x", Flags(ignore_case=True)),
        (r"a.b", Flags(dot_all=True)),
        (r"^b$", Flags(multi_line=True)),
        (r"\Aa|b", Flags()),
        (r"(?P<n>a)\x62?[\w-]+?", Flags()),
        (r"[^\d\]a-]\S\D\W", Flags()),
        (r"(?s)a.b", Flags()),
        (r"(?s:a.)b|", Flags()),
        (r"\t\.\$[[:digit:]]*[]x]", Flags()),
    ],
)
@given(text=st.text("aAbBxX129 -.DdFi/\n\tc]$_", max_size=8))
def test_an_expression_is_found_anywhere(expression: str, flags: Flags, text: str) -> None:
    body, read = regex.leading_flags(expression, flags)
    options = (
        re.IGNORECASE * read.ignore_case | re.MULTILINE * read.multi_line | re.DOTALL * read.dot_all
    )
    python = body.replace("[[:digit:]]", "[0-9]")
    found = falco_says(Text("proc.name").regex(expression, flags), {"proc.name": text})
    assert found == (re.search(python, text, options | re.ASCII) is not None)


@pytest.mark.parametrize(
    "expression",
    [
        "a(?=b)", r"(a)\1", r"\bx", "a++", "(?i:x)y", "(a", "a)", "[a", r"\p{L}", "*a", "a{2000}",
        "(^a)+", "a^b", r"[\D]", "[z-a]", r"\xZZ", "\0", "(^|a)" * 8, "x|" + "(^|b)(^|c)" * 4,
    ],
)  # fmt: skip
def test_what_posix_re2_has_not_is_refused(expression: str) -> None:
    with pytest.raises(FalcoUnsupportedError):
        Text("proc.name").regex(expression, Flags())


@pytest.mark.parametrize("expression", ["é", "[a-é]"])
def test_case_outside_ascii_is_refused_in_expressions(expression: str) -> None:
    with pytest.raises(FalcoUnsupportedError):
        Text("proc.name").regex(expression, Flags(ignore_case=True))


def test_an_expression_for_a_command_line_does_not_see_falcos_space() -> None:
    node = COMMAND_LINE.regex(r"ls\s$", Flags())
    assert not falco_says(node, {"proc.exe": "ls", "proc.exeline": "ls ", "proc.cmdnargs": 0})
    plain = COMMAND_LINE.regex("-D", Flags())
    assert plain == check("proc.exeline", "contains", "-D")


def test_letters_outside_ascii_become_their_cases() -> None:
    node = Text("user.name").text(pattern(("Zoë",), cased=False))
    assert falco_says(node, {"user.name": "ZOË"})
    assert falco_says(node, {"user.name": "zoë"})
    with pytest.raises(FalcoUnsupportedError, match="too many letters"):
        Text("user.name").text(pattern(("ëëëëë",), cased=False))


def test_numbers_compare_as_numbers() -> None:
    port = Numeric("fd.sport")
    assert render(port.number("=", 22)) == "fd.sport = 22"
    assert render(port.number(">=", 1024)) == "fd.sport >= 1024"
    assert render(port.text(pattern(("22",), cased=False))) == "fd.sport = 22"
    assert render(port.text(Pattern((Wild.ANY,)))) == "fd.sport exists"
    assert render(port.reference(Numeric("fd.cport"), "=")) == "fd.sport = val(fd.cport)"
    assert port.shown == "fd.sport"


def test_addresses_compare_as_addresses() -> None:
    server = Address("fd.sip", "fd.snet")
    assert render(server.text(pattern(("::1",), cased=False))) == 'fd.sip = "::1"'
    assert (
        render(server.text(pattern(("10.1.", Wild.ANY), cased=False)))
        == 'fd.snet in ("10.1.0.0/16")'
    )
    assert render(server.network("fe80::/10")) == 'fd.snet in ("fe80::/10")'
    assert render(server.exists()) == "fd.sip exists"
    assert render(server.text(Pattern((Wild.ANY,)))) == "fd.sip exists"


def test_a_name_looked_up_is_read_from_the_packet() -> None:
    def packet(name: str) -> str:
        labels = "".join(f".{label}" for label in name.split("."))
        return f".4..........{labels}....."

    field = QueriedName()
    cases = [
        (("www.example.org",), "WWW.example.org", "a.www.example.org"),
        ((Wild.ANY, ".example.org"), "a.example.org", "a.example.org.evil.net"),
        (("www.", Wild.ANY), "www.example.org", "a.www.org"),
        ((Wild.ANY, "ample", Wild.ANY), "www.example.org", "www.exampel.org"),
    ]
    for parts, good, bad in cases:
        node = field.text(pattern(parts, cased=False))
        assert falco_says(node, {"evt.arg.data": packet(good)})
        assert not falco_says(node, {"evt.arg.data": packet(bad)})
    assert render(field.text(Pattern((Wild.ANY,)))) == "evt.arg.data exists"


def test_a_field_with_few_values() -> None:
    field = Choice({"yes": bare("evt.rawres", ">=", "0"), "no": FALSE})
    assert field.text(pattern(("YES",), cased=False)) == bare("evt.rawres", ">=", "0")
    assert field.text(pattern(("y", Wild.ANY), cased=False)) == bare("evt.rawres", ">=", "0")
    assert field.text(pattern(("other",), cased=False)) == FALSE
    assert field.text(Pattern((Wild.ANY,))) == field.exists() == TRUE
    assert field.number("=", 1) == FALSE
    one = Constant("1")
    assert (one.number("=", 1), one.number("=", 2), one.exists()) == (TRUE, FALSE, TRUE)
    assert one.text(pattern(("?",), cased=False)) == FALSE


def test_fields_refer_to_each_other() -> None:
    text = Path("proc.exepath").reference(Text("proc.name"), "endswith")
    assert render(text) == "tolower(proc.exepath) endswith tolower(proc.name)"
    line = COMMAND_LINE.reference(PARENT_COMMAND_LINE, "=")
    assert render(line) == 'tolower(proc.exeline) = tolower(concat(proc.pexe, " ", proc.aargs[1]))'


def test_an_absent_field_matches_nothing() -> None:
    absent = Absent()
    found = [
        absent.text(pattern(("x",), cased=False)), absent.number("<", 1), absent.regex("x", Flags()),
        absent.network("10.0.0.0/8"), absent.exists(), absent.reference(absent, "="),
    ]  # fmt: skip
    assert found == [FALSE] * 6


PORT, LINE, NAME = Numeric("fd.sport"), COMMAND_LINE, Text("proc.name")
CONTAINS = pattern((Wild.ANY, "x", Wild.ANY), cased=False)
SERVER = Address("fd.sip", "fd.snet")


@pytest.mark.parametrize(
    "refused",
    [
        lambda: PORT.text(CONTAINS),
        lambda: PORT.number("=", 1.5),
        lambda: PORT.regex("x", Flags()),
        lambda: PORT.reference(NAME, "="),
        lambda: LINE.number("<", 1),
        lambda: LINE.network("10.0.0.0/8"),
        lambda: LINE.reference(NAME, "="),
        lambda: NAME.number("<", 1),
        lambda: NAME.reference(LINE, "="),
        lambda: SERVER.text(CONTAINS),
        lambda: SERVER.text(pattern(("host",), cased=False)),
        lambda: SERVER.text(pattern(("10.1", Wild.ANY), cased=False)),
        lambda: SERVER.network("300.0.0.0/8"),
        lambda: SERVER.number("=", 1),
        lambda: Directory("proc.cwd").regex("x", Flags()),
        lambda: Directory("proc.cwd").reference(NAME, "="),
        lambda: QueriedName().text(pattern(("a?b",), cased=True)),
        lambda: QueriedName().text(pattern(("a", Wild.ONE, "b"), cased=False)),
        lambda: QueriedName().exists(),
        lambda: Constant("1").number("<", 2),
        lambda: Choice({}).number("<", 2),
        lambda: Unavailable("no hash").text(CONTAINS),
        lambda: Constant("1").reference(NAME, "="),
    ],
)
def test_what_a_kind_of_field_cannot_say_is_refused(refused: object) -> None:
    with pytest.raises(FalcoUnsupportedError):
        refused()  # type: ignore[operator]


def test_text_takes_numbers_and_expressions() -> None:
    assert render(NAME.number("=", 777)) == "tolower(proc.name) = 777"
    assert render(LINE.exists()) == "proc.exe exists"
    assert Text("tolower(x)").shown is None
    assert NAME.exists() == NAME.text(Pattern((Wild.ANY,)))
    assert render(Directory("proc.cwd").text(Pattern((Wild.ANY,)))) == "proc.cwd exists"
    assert LINE.number("=", 7) == LINE.text(pattern(("7",), cased=False))
