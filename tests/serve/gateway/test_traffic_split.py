"""How requests are split between versions."""

from collections import Counter

import pytest

from looper.platform.catalog import RouteTarget
from looper.serve.gateway.traffic_split import TrafficSplitter


def target(channel: str, share: float) -> RouteTarget:
    return RouteTarget(channel=channel, digest=channel.ljust(64, "0"), rank=8, share=share)


PROD, CANARY, THIRD = target("prod", 0.9), target("canary", 0.1), target("b", 0.5)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.333, 0.5, 1.0])
def test_a_canary_share_is_exact_to_one_request_at_any_time(share: float) -> None:
    split = TrafficSplitter()
    targets = [target("prod", 1 - share), target("canary", share)]
    canary_requests = 0
    for requests in range(1, 1001):
        canary_requests += split.pick("acme/desk", targets).channel == "canary"
        assert abs(canary_requests - share * requests) <= 1


def test_skills_are_split_independently() -> None:
    split = TrafficSplitter()
    names = [f"acme/{number}" for number in range(50)]
    counts = Counter(split.pick(name, [PROD, CANARY]).channel for _ in range(10) for name in names)
    assert counts == {"prod": 450, "canary": 50}


def test_a_changed_share_starts_counting_again() -> None:
    split = TrafficSplitter()
    for _ in range(7):
        split.pick("acme/desk", [PROD, CANARY])
    even = [target("prod", 0.5), target("canary", 0.5)]
    assert Counter(split.pick("acme/desk", even).channel for _ in range(10)) == {"prod": 5, "canary": 5}


def test_a_skill_without_a_canary_uses_no_memory() -> None:
    split = TrafficSplitter()
    assert split.pick("acme/desk", [THIRD]) is THIRD
    assert split._weights == {}
