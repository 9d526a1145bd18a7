from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace as replace_host

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from sib_protocol.ids import HostId, HostName
from sib_protocol.messages import BundleEnd, BundleHealth, BundleOutcome
from sib_server.detection.bundles.desk import BundleDesk
from sib_server.detection.bundles.pacing import PullPacer
from sib_server.detection.bundles.releases import Part, Release, Releases, Rollout, Stage
from sib_server.detection.bundles.rollout import (
    Advance,
    HostStanding,
    RolloutPolicy,
    Stop,
    Wait,
    begin,
    draw,
    in_rollout,
    judge_rollout,
    wanted_release,
)
from sib_server.detection.bundles.shelf import Shelf
from sib_server.detection.bundles.status import count_hosts
from sib_server.fleet.policy import AuthenticatedHost

MINUTE = 60 * 10**9
POLICY = RolloutPolicy(soak_ns=30 * MINUTE, silent_ns=5 * MINUTE, failed_percent=5.0)
NOW = 1_000_000 * MINUTE
FLEET = [HostId(f"host-{number}") for number in range(2000)]


def begun(
    before: Rollout, version: int, hosts: Sequence[HostStanding | HostId], percent: float
) -> Rollout:
    known = [one if isinstance(one, HostStanding) else HostStanding(one) for one in hosts]
    return begin(before, version, known, percent=percent, now_ns=NOW, policy=POLICY)


def release(version: int, *tags: str) -> Release:
    parts = [Part(f"{version}.{part}.tar.gz", "0" * 64, 10) for part in ("base", *tags)]
    return Release(version, tuple(parts), NOW)


RELEASES = Releases((release(6), release(7, "tag-web", "tag-db")))


@given(st.floats(0.1, 100), st.integers(1, 1000), st.integers(0, 60))
def test_canaries_are_about_their_share_and_never_nobody(
    percent: float, version: int, size: int
) -> None:
    hosts = FLEET[:size]
    rollout = begun(Rollout(stable=1), version, hosts, percent)
    chosen = [host for host in hosts if in_rollout(rollout, host)]
    assert bool(chosen) == bool(hosts)
    # The same ones on every server, whatever order it knows them in.
    assert rollout == begun(Rollout(stable=1), version, hosts[::-1], percent)
    big = begun(Rollout(stable=1), version, FLEET, percent)
    share = sum(in_rollout(big, host) for host in FLEET) / len(FLEET) * 100
    assert abs(share - percent) < 6


def test_each_version_has_other_canaries() -> None:
    assert draw(FLEET[0], 1) != draw(FLEET[0], 2)
    rollouts = [begun(Rollout(), version, FLEET, 5) for version in (1, 2)]
    chosen = [{host for host in FLEET if in_rollout(rollout, host)} for rollout in rollouts]
    assert len(chosen[0] & chosen[1]) < len(chosen[0]) / 3


def test_hosts_outside_the_rollout_keep_what_is_stable() -> None:
    rollout = begun(Rollout(stable=6), 7, FLEET, 5)
    releases = replace(RELEASES, rollout=rollout)
    wanted = {host: wanted_release(releases, host) for host in FLEET}
    for host, found in wanted.items():
        assert found is not None
        assert found.version == (7 if in_rollout(rollout, host) else 6)
    assert wanted_release(replace(RELEASES, rollout=Rollout()), FLEET[0]) is None


def test_what_all_hosts_were_given_is_what_they_go_back_to() -> None:
    everywhere = begun(Rollout(stable=5), 6, FLEET[:100], 100)
    took = [standing(number, version=6) for number in range(100)]
    following = begun(everywhere, 7, took, 5)
    assert (following.stable, following.given, following.outside) == (6, None, 6)
    with_canaries = begun(Rollout(stable=5), 6, FLEET[:100], 5)
    following = begun(with_canaries, 7, took, 100)
    assert (following.stable, following.given) == (5, None)


def test_what_was_given_and_is_not_proven_is_kept_and_not_gone_back_to() -> None:
    everywhere = begun(Rollout(stable=5), 6, FLEET[:100], 100)
    would_not = {"version": 5, "ended": 6, "outcome": BundleOutcome.ROLLED_BACK}
    for took, failed in ((0, 0), (49, 0), (94, 6), (0, 100)):
        hosts = [standing(number, version=6) for number in range(took)]
        hosts += [standing(number, **would_not) for number in range(took, took + failed)]
        hosts += [standing(number, version=5) for number in range(took + failed, 100)]
        following = begun(everywhere, 7, hosts, 5)
        assert (following.stable, following.given, following.outside) == (5, 6, 6)
        assert following.needed() == {5, 6, 7}
        # Also when yet another one comes: nobody ever went on to the second.
        third = begun(following, 8, hosts, 5)
        assert (third.stable, third.given) == (5, 6)


BEGUN = begun(Rollout(stable=6), 7, FLEET[:100], 100)


def standing(number: int, **more: object) -> HostStanding:
    return HostStanding(FLEET[number], **{"seen_ns": NOW + MINUTE, "version": 7, **more})  # type: ignore[arg-type]


def test_one_failure_among_many_does_not_stop_it_and_too_many_do() -> None:
    fine = [standing(number) for number in range(100)]
    bad = {"version": 6, "ended": 7, "outcome": BundleOutcome.ROLLED_BACK, "reason": "a storm"}
    for failures, stopped in ((5, False), (6, True)):
        hosts = [standing(number, **bad) for number in range(failures)] + fine[failures:]
        verdict = judge_rollout(BEGUN, hosts, NOW + MINUTE, POLICY)
        assert isinstance(verdict, Stop) == stopped
        if isinstance(verdict, Stop):
            assert verdict.reason == "6 of 100 hosts refused it or rolled it back: a storm"


def test_an_older_failure_is_not_this_ones() -> None:
    hosts = [standing(0, ended=6, outcome=BundleOutcome.REFUSED)]
    assert judge_rollout(BEGUN, hosts, NOW + MINUTE, POLICY) == Wait()


def test_a_host_that_goes_silent_after_it_was_told_has_failed() -> None:
    gone, off_before = standing(0, version=6), standing(1, version=6, seen_ns=NOW - MINUTE)
    later = NOW + 7 * MINUTE
    assert isinstance(judge_rollout(BEGUN, [gone], later, POLICY), Stop)
    assert judge_rollout(BEGUN, [off_before], later, POLICY) == Wait()
    assert "went silent" in judge_rollout(BEGUN, [gone], later, POLICY).reason  # type: ignore[union-attr]


def test_it_goes_on_after_its_time_if_enough_have_it() -> None:
    canary = replace(BEGUN, stage=Stage.CANARY, cut=2**32 - 1)
    late = NOW + 31 * MINUTE

    def hosts(version: int) -> list[HostStanding]:
        return [standing(number, version=version, seen_ns=late) for number in range(10)]

    assert judge_rollout(canary, hosts(7), NOW + 29 * MINUTE, POLICY) == Wait()
    assert judge_rollout(canary, hosts(6), late, POLICY) == Wait()
    verdict = judge_rollout(canary, hosts(7), late, POLICY)
    assert verdict == Advance(replace(canary, stage=Stage.ALL, since_ns=late))
    verdict = judge_rollout(BEGUN, hosts(7), late, POLICY)
    assert isinstance(verdict, Advance)
    assert (verdict.rollout.stable, verdict.rollout.candidate) == (7, None)
    assert judge_rollout(verdict.rollout, hosts(7), late, POLICY) == Wait()


def test_canaries_that_nobody_hears_of_prove_nothing() -> None:
    canary = begun(Rollout(stable=6), 7, FLEET[:100], 5)
    late = NOW + 31 * MINUTE
    chosen = {host for host in FLEET[:100] if in_rollout(canary, host)}
    # All canaries were switched off long ago, the others are well.
    fleet = [
        HostStanding(host, seen_ns=1 if host in chosen else late, version=6) for host in FLEET[:100]
    ]
    # They have a little time to be heard of.
    assert judge_rollout(canary, fleet, NOW + MINUTE, POLICY) == Wait()
    verdict = judge_rollout(canary, fleet, late, POLICY)
    assert isinstance(verdict, Advance)
    following = verdict.rollout
    assert (following.stage, following.candidate) == (Stage.CANARY, 7)
    new = {host for host in FLEET[:100] if in_rollout(following, host)} - chosen
    assert len(new) == 1
    # It takes its time as if it had just begun, and goes on once the new one has it.
    later = late + 31 * MINUTE
    took = [replace_host(host, version=7) if host.host_id in new else host for host in fleet]
    heard = [replace_host(host, seen_ns=later) if host.seen_ns > 1 else host for host in took]
    assert judge_rollout(following, took, late + MINUTE, POLICY) == Wait()
    verdict = judge_rollout(following, heard, later, POLICY)
    assert isinstance(verdict, Advance)
    assert verdict.rollout.stage is Stage.ALL
    # Nobody at all is there to try it: it waits for the first that comes.
    gone = [replace_host(host, seen_ns=1) for host in fleet]
    for hosts in ([], gone):
        assert judge_rollout(canary, hosts, late, POLICY) == Wait()


def test_a_clock_that_was_put_back_does_not_stop_a_rollout() -> None:
    year = 365 * 24 * 60 * MINUTE
    for rollout in (BEGUN, replace(BEGUN, stage=Stage.CANARY, cut=2**32 - 1)):
        ahead = replace(rollout, since_ns=NOW + year)
        fine = [standing(number) for number in range(10)]
        verdict = judge_rollout(ahead, fine, NOW + MINUTE, POLICY)
        assert verdict == Advance(replace(ahead, since_ns=NOW + MINUTE))


hosts_anyhow = st.lists(
    st.builds(
        HostStanding,
        st.sampled_from(FLEET[:30]),
        seen_ns=st.integers(0, 40).map(lambda minutes: NOW + (minutes - 10) * MINUTE),
        version=st.sampled_from([0, 6, 7]),
        ended=st.sampled_from([None, 6, 7]),
        outcome=st.sampled_from([None, *BundleOutcome]),
    ),
    unique_by=lambda host: host.host_id,
)


@given(hosts_anyhow, st.sampled_from([BEGUN, replace(BEGUN, stage=Stage.CANARY, cut=2**31)]))
def test_whatever_hosts_say_it_is_only_stopped_for_one_that_was_asked(
    hosts: list[HostStanding], rollout: Rollout
) -> None:
    now = NOW + 31 * MINUTE
    verdict = judge_rollout(rollout, hosts, now, POLICY)
    asked = [host for host in hosts if in_rollout(rollout, host.host_id)]
    suspicious = [
        host for host in asked if host.failed(7) or now - host.seen_ns >= POLICY.silent_ns
    ]
    assume(isinstance(verdict, Stop))
    assert suspicious


@given(hosts_anyhow)
def test_every_host_is_counted_once(hosts: list[HostStanding]) -> None:
    counts = count_hosts(hosts, replace(RELEASES, rollout=BEGUN))
    assert sum(counts.states().values()) == len(hosts)


@given(st.lists(st.tuples(st.sampled_from(FLEET[:20]), st.floats(0, 5)), min_size=1))
def test_no_second_has_more_turns_than_it_may(asked: list[tuple[HostId, float]]) -> None:
    pacer = PullPacer(4.0)
    now = 0.0
    turns: dict[HostId, float] = {}
    for host, later in asked:
        now += later
        wait = pacer.wait(host, 7, now)
        turn = turns.setdefault(host, now + wait)
        assert abs(max(turn, now) - (now + wait)) < 1e-6
    ordered = sorted(turns.values())
    assert all(b - a >= 0.25 - 1e-6 for a, b in itertools.pairwise(ordered))


def test_a_host_is_told_its_parts_and_waits_only_before_it_fetches() -> None:
    desk = BundleDesk(0.1, steady=lambda: 100.0)
    desk.shelf = Shelf(releases=replace(RELEASES, rollout=BEGUN))
    tagged = AuthenticatedHost(FLEET[0], HostName("a"), "1", 0, ("web", "other"))
    plain = AuthenticatedHost(FLEET[1], HostName("b"), "2", 0)
    assert desk.wanted(tagged, None) is None
    first = desk.wanted(tagged, BundleHealth(6))
    assert first is not None
    assert first.targets == ("7.base.tar.gz", "7.tag-web.tar.gz")
    assert first.wait_seconds == 0.0
    second = desk.wanted(plain, BundleHealth(6))
    assert second is not None
    assert (second.targets, second.wait_seconds) == (("7.base.tar.gz",), 10.0)
    ended = BundleEnd(7, BundleOutcome.REFUSED, "no", 0)
    for has in (BundleHealth(7), BundleHealth(6, ended), BundleHealth(6, trying=7)):
        told = desk.wanted(plain, has)
        assert told is not None
        assert told.wait_seconds == 0.0
    assert BundleDesk(1.0).wanted(plain, BundleHealth(0)) is None
