"""How conversations are split between versions."""

from collections import Counter
from math import sqrt
from typing import Any

import pytest

from looper.platform.catalog import RouteTarget
from looper.platform.domain.names import InstanceName
from looper.serve.gateway.traffic_split import conversation_key, pick_target

DESK = InstanceName("acme", "desk")


def target(channel: str, share: float) -> RouteTarget:
    return RouteTarget(channel=channel, digest=channel.ljust(64, "0"), rank=8, base="base", share=share)


def split(*shares: float) -> list[RouteTarget]:
    canaries = [target(f"canary-{number}", share) for number, share in enumerate(shares)]
    return [target("prod", 1 - sum(shares)), *canaries]


def chat(number: int, *later: dict[str, Any]) -> dict[str, Any]:
    first = [{"role": "system", "content": "You book rooms."}, {"role": "user", "content": f"Book room {number}."}]
    return {"model": "acme/desk", "messages": [*first, *later]}


def channels(targets: list[RouteTarget], count: int = 1000, instance: InstanceName = DESK) -> list[str | None]:
    return [pick_target(instance, conversation_key(None, chat(number)), targets).channel for number in range(count)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.333, 0.5])
def test_a_canary_gets_its_share_of_a_thousand_conversations_within_three_standard_deviations(share: float) -> None:
    answered = channels(split(share)).count("canary-0")
    assert abs(answered - 1000 * share) <= 3 * sqrt(1000 * share * (1 - share))


def test_a_share_of_all_is_all_and_several_canaries_get_theirs() -> None:
    assert set(channels(split(1.0))) == {"canary-0"}
    counts = Counter(channels(split(0.2, 0.3), 10_000))
    for channel, share in (("prod", 0.5), ("canary-0", 0.2), ("canary-1", 0.3)):
        assert abs(counts[channel] - 10_000 * share) <= 3 * sqrt(10_000 * share * (1 - share))


def test_a_conversation_keeps_its_version_in_each_turn() -> None:
    targets = split(0.5)
    for number in range(100):
        turns = [{"role": "assistant", "content": f"Which day, {number}?"}, {"role": "user", "content": "Monday."}]
        turns += [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "booked"}]
        picked = {
            pick_target(DESK, conversation_key(None, chat(number, *turns[:length])), targets)
            for length in range(len(turns))
        }
        assert len(picked) == 1


def test_text_and_parts_tell_the_same_conversation() -> None:
    text = {"messages": [{"role": "user", "content": "Hello."}]}
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]}
    assert conversation_key(None, text) == conversation_key(None, parts)


def test_users_who_begin_alike_are_split_too() -> None:
    keys = [conversation_key(f"user {number}", chat(7)) for number in range(1000)]
    answered = [pick_target(DESK, key, split(0.5)).channel for key in keys].count("canary-0")
    assert abs(answered - 500) <= 3 * sqrt(250)


def test_completions_are_told_by_their_user_or_else_by_their_prompt() -> None:
    prompts = [{"prompt": f"Book room {number}."} for number in range(5)] + [{"prompt": [1, 2]}, {"prompt": None}]
    assert len({conversation_key(None, prompt) for prompt in prompts}) == 7
    assert len({conversation_key("ann", prompt) for prompt in prompts}) == 1


def test_a_larger_share_takes_no_conversation_from_the_canary() -> None:
    before, after = channels(split(0.1)), channels(split(0.3))
    assert all(late == "canary-0" for early, late in zip(before, after, strict=True) if early == "canary-0")


def test_skills_are_split_independently() -> None:
    both = zip(channels(split(0.5)), channels(split(0.5), instance=InstanceName("acme", "other")), strict=True)
    assert 400 <= sum(one == other for one, other in both) <= 600


@pytest.mark.parametrize("messages", [None, [], "text", [None, 7, "x"], [{"role": "user"}], [{"content": {"a": 1}}]])
def test_malformed_messages_are_split_as_well(messages: object) -> None:
    assert pick_target(DESK, conversation_key(None, {"messages": messages}), split(0.5))
