from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta

import pytest
import sqlalchemy as sa

from sib_server.pki.tokens import (
    TokenLimitsError,
    TokenNotFoundError,
    TokenSecretError,
    TokenState,
    TokenUnknownError,
    verify_token,
)
from sib_server.state.schema import tokens
from tests.support.fleet import World


def test_only_the_secrets_hash_is_stored(world: World) -> None:
    made = world.token(tags=("web", "eu", "web"), uses=3)
    with world.state.read() as connection:
        row = connection.execute(sa.select(tokens)).one()
    assert made.secret not in str(tuple(row))
    assert row.secret_digest == hashlib.sha256(made.secret.encode()).hexdigest()
    assert made.secret not in repr(made)
    assert world.tokens.list() == [made.record]
    assert made.record.tags == ("web", "eu")


def test_secrets_are_compared_in_constant_time_and_unknown_ids_take_the_same_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def watch(stored: str, given: str) -> bool:
        seen.append((stored, given))
        return real(stored, given)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    made = world.token()
    with world.state.read() as connection:
        with pytest.raises(TokenSecretError) as wrong:
            verify_token(connection, made.record.id, "x" * 43)
        with pytest.raises(TokenUnknownError) as unknown:
            verify_token(connection, "0" * 16, made.secret)
        assert verify_token(connection, made.record.id, made.secret) == made.record
    assert len(seen) == 3
    assert all(len(stored) == len(given) == 64 for stored, given in seen)
    # Distinct inside, one and the same outside.
    assert type(wrong.value) is not type(unknown.value)
    assert wrong.value.cause != unknown.value.cause
    assert wrong.value.refusal() == unknown.value.refusal()
    assert wrong.value.status == unknown.value.status


@pytest.mark.parametrize("hostile", ["", "\0", "a\0b", "\ud800", "' OR 1=1 --", "é" * 9000])
def test_hostile_halves_are_unknown_not_a_crash(world: World, hostile: str) -> None:
    made = world.token()
    with world.state.read() as connection:
        with pytest.raises(TokenUnknownError):
            verify_token(connection, hostile, made.secret)
        with pytest.raises(TokenSecretError):
            verify_token(connection, made.record.id, hostile)


def test_states(world: World) -> None:
    record = world.token(ttl=timedelta(minutes=5)).record
    assert record.state(world.clock.ns) is TokenState.USABLE
    assert record.state(record.expires_ns - 1) is TokenState.USABLE
    assert record.state(record.expires_ns) is TokenState.EXPIRED
    world.clock.pass_(seconds=1)
    revoked = world.tokens.revoke(record.id)
    assert revoked.state(world.clock.ns) is TokenState.REVOKED
    world.clock.pass_(seconds=1)
    assert world.tokens.revoke(record.id) == revoked
    with pytest.raises(TokenNotFoundError, match="beef"):
        world.tokens.revoke("beef")


def test_dead_tokens_are_forgotten_after_a_month(world: World) -> None:
    old = world.token(ttl=timedelta(hours=1)).record
    world.clock.pass_(days=29)
    middle = world.token(ttl=timedelta(days=10)).record
    world.clock.pass_(days=2)
    new = world.token().record
    assert [record.id for record in world.tokens.list()] == [new.id, middle.id]
    assert old.id not in [new.id, middle.id]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"ttl": timedelta(0)}, "0:00:00"),
        ({"ttl": timedelta(days=91)}, "91 days"),
        ({"uses": 0}, "0 uses"),
        ({"uses": 10**12}, "1000000000000"),
        ({"tags": ("",)}, "''"),
        ({"tags": ("a b",)}, "a b"),
        ({"tags": ("x" * 65,)}, "xxx"),
        ({"tags": tuple(map(str, range(33)))}, "33"),
    ],
)
def test_tokens_out_of_bounds_are_not_made(
    world: World, wanted: dict[str, object], named: str
) -> None:
    with pytest.raises(TokenLimitsError, match=named):
        world.token(**wanted)
    assert world.tokens.list() == []
