from __future__ import annotations

import pytest

from sib_server.detection.sigma.preview import ConditionSyntaxError, compile_condition

EVENT: dict[str, str | int] = {
    "proc.name": "Bash",
    "proc.exepath": "/usr/bin/Bash",
    "fd.sport": 443,
    "fd.snet": "10.1.2.3",
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('proc.name = "Bash"', True),
        ('proc.name != "bash"', True),
        ('tolower(proc.name) = "bash" and not fd.sport = 80', True),
        ('tolower(basename(proc.exepath)) in ("sh", "bash")', True),
        ("proc.name in (shells)", True),
        ('proc.name in ("shells")', False),
        ('concat(proc.name, " ", proc.exepath) contains "h /u"', True),
        ('concat(proc.name, proc.absent) contains "h"', False),
        ('proc.exepath startswith anyof ("/tmp", "/usr")', True),
        ('proc.exepath endswith "bash"', False),
        ('proc.exepath pmatch ("/usr", "/opt")', True),
        ('proc.exepath pmatch ("/us")', False),
        ('proc.exepath glob "/usr/*/[B]ash"', True),
        ('proc.exepath glob "/usr/\\\\*/Bash"', False),
        ('proc.name regex "(.|\\n)*[[:alnum:]]h"', True),
        ('fd.snet in ("192.168.0.0/16", "10.0.0.0/8")', True),
        ('proc.name in ("10.0.0.0/8")', False),
        ("fd.sport >= 443 and fd.sport <= 443", True),
        ("fd.sport > 443 or fd.sport < 443", False),
        ("proc.name exists and not proc.absent exists", True),
        ('proc.absent = ""', False),
        ('not (proc.absent = "")', True),
        ("proc.name = val(proc.name)", True),
        ("tolower(proc.name) = tolower(proc.name)", True),
    ],
)
def test_it_judges_as_falco_does(condition: str, expected: bool) -> None:
    assert compile_condition(condition, {"shells": ["Bash", "Zsh"]})(EVENT) is expected


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "proc.name",
        'proc.name like "x"',
        'proc.name like anyof ("x")',
        'proc.name = "x" proc.name = "y"',
        '(proc.name = "x"',
        'upside(proc.name) = "x"',
        'proc.name = "unfinished',
        "proc.name in (",
    ],
)
def test_anything_else_is_an_error_that_says_where(condition: str) -> None:
    with pytest.raises(ConditionSyntaxError) as caught:
        compile_condition(condition)
    assert caught.value.condition == condition
    assert "cannot read the condition" in caught.value.problem
