from collections import Counter

import pytest

from looper.platform.catalog import Target
from looper.serve.gateway.traffic_split import TrafficSplitter


def target(channel: str, share: float) -> Target:
    return Target(channel=channel, digest=channel.ljust(64, "0"), rank=8, share=share)


PROD, CANARY, THIRD = target("prod", 0.9), target("canary", 0.1), target("b", 0.5)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.333, 0.5, 1.0])
def test_at_any_time_a_canary_has_had_its_share_to_one_request(share: float) -> None:
    split = TrafficSplitter()
    targets = [target("prod", 1 - share), target("canary", share)]
    had = 0
    for asked in range(1, 1001):
        had += split.pick("acme/desk", targets).channel == "canary"
        assert abs(had - share * asked) <= 1


def test_each_skill_has_a_turn_of_its_own() -> None:
    split = TrafficSplitter()
    names = [f"acme/{n}" for n in range(50)]
    got = Counter(split.pick(name, [PROD, CANARY]).channel for _ in range(10) for name in names)
    assert got == {"prod": 450, "canary": 50}


def test_another_share_counts_from_its_beginning() -> None:
    split = TrafficSplitter()
    for _ in range(7):
        split.pick("acme/desk", [PROD, CANARY])
    even = [target("prod", 0.5), target("canary", 0.5)]
    assert Counter(split.pick("acme/desk", even).channel for _ in range(10)) == {"prod": 5, "canary": 5}


def test_without_a_canary_nothing_is_remembered() -> None:
    split = TrafficSplitter()
    assert split.pick("acme/desk", [THIRD]) is THIRD
    assert split._owed == {}
