"""A small mutation fuzzer: seeded, so that a failing input comes again.

Over a corpus of real inputs it flips, cuts, repeats, splices and inserts; what makes a target
behave in a way not seen before (another outcome, another length of its result) joins the corpus.
"""

from __future__ import annotations

import hashlib
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MAX_INPUT = 64 * 1024
SLOW_SECONDS = 2.0
"""One input may take no longer, on a machine however busy."""

ODD = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff" * 8,
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xed\xa0\x80",
    "\u2028\u202e".encode(),
    b"\\ud800",
    b"\\",
    b'"',
    b"{" * 64,
    b"[" * 2000,
    b"-1",
    b"9" * 400,
    b"1e999",
    b"NaN",
    b"null",
    b"%00",
    b"/../",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: in reports.
        run: feeds it; returns something small and hashable that tells behaviours apart.
        allowed: what it may raise, as its docstring says.
        corpus: real inputs.
    """

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    corpus: Sequence[bytes]


@dataclass
class Outcome:
    name: str
    inputs: int = 0
    seconds: float = 0.0
    refused: int = 0
    slowest_seconds: float = 0.0
    corpus: int = 0
    crashes: list[str] = field(default_factory=list)


def mutate(draw: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One new input."""
    data = bytearray(draw.choice(corpus))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        size = len(data)
        at = draw.randrange(size + 1)
        span = min(size - at, draw.choice((1, 1, 2, 4, 8, 32, 256)))
        match draw.randrange(9):
            case 0 if size:
                data[at % size] ^= 1 << draw.randrange(8)
            case 1 if size:
                data[at % size] = draw.randrange(256)
            case 2:
                del data[at : at + span]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = draw.choice(ODD)
            case 5:
                data[at : at + span] = draw.choice(ODD)
            case 6:
                data[at:at] = bytes(data[at : at + span]) * draw.choice((1, 2, 16))
            case 7:
                other = draw.choice(corpus)
                start = draw.randrange(len(other) + 1)
                data[at : at + span] = other[start : start + draw.choice((4, 32, 512))]
            case _:
                data[at:at] = draw.randbytes(draw.choice((1, 2, 4, 8)))
    return bytes(data[:MAX_INPUT])


def fuzz(target: Target, inputs: int, seed: int, *, most_crashes: int = 5) -> Outcome:
    """Feed a target; stops early at so many crashes."""
    draw = random.Random(f"{seed}/{target.name}")
    corpus = list(target.corpus)
    seen: set[object] = set()
    outcome = Outcome(target.name)
    start = time.monotonic()
    for number in range(inputs):
        data = corpus[number] if number < len(target.corpus) else mutate(draw, corpus)
        before = time.monotonic()
        try:
            behaviour: object = target.run(data)
        except target.allowed as error:
            outcome.refused += 1
            behaviour = (type(error).__name__, "".join(filter(str.isalpha, str(error)))[:48])
        except Exception:  # noqa: BLE001  (that is what is looked for)
            digest = hashlib.sha256(data).hexdigest()[:16]
            last = traceback.format_exc(limit=-3)
            outcome.crashes.append(f"input {number} ({digest}): {data[:400]!r}\n{last}")
            if len(outcome.crashes) >= most_crashes:
                break
            continue
        took = time.monotonic() - before
        outcome.slowest_seconds = max(outcome.slowest_seconds, took)
        if took > SLOW_SECONDS:
            outcome.crashes.append(f"input {number} took {took:.1f} s: {data[:400]!r}")
        if behaviour not in seen and len(corpus) < 4000:
            seen.add(behaviour)
            corpus.append(data)
        outcome.inputs = number + 1
    outcome.inputs = max(outcome.inputs, min(inputs, len(outcome.crashes)))
    outcome.seconds = time.monotonic() - start
    outcome.corpus = len(corpus)
    return outcome
