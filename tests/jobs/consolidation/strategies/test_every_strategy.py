"""What holds for every strategy, and for some combinations."""

import re
from inspect import signature
from pathlib import Path

import pytest
import torch

from looper.jobs.consolidation.adapters.lora import Lora
from looper.jobs.consolidation.strategies.registry import STRATEGIES, build_strategy
from looper.platform.domain.strategy import STRATEGY_NAMES
from tests.jobs.consolidation.strategies.life import copied, live, opened, step, stored, window

QUICK = "online-lora(mean=10,variance=10,length=2)"  # on a plateau after two steps
ALL = [QUICK if name == "online-lora" else name for name in STRATEGY_NAMES]
COMBINATIONS = [
    "replay+ella",
    "replay+distill",
    "replay+i-lora",
    "replay-loss+online-ewc+merge",
    "progressive+distill",
    "progressive+online-ewc-factors",
    "merge(kind=linear)+o-lora",
    "am-lora+online-ewc",
    "am-lora+distill+i-lora",
    f"{QUICK}+replay-loss",
    "ewc+o-lora",
    "ella+progressive",
    "replay+slao",
    "progressive+slao",
]
FIRST = [window(0, 1), window(1, 2), window(2, 3)]
SECOND = [window(3, 0), window(1, 3)]
THIRD = [window(2, 0), window(0, 0), window(3, 3)]


def assert_equal(one: Lora, other: Lora) -> None:
    for layer, of in one.items():
        torch.testing.assert_close(of.update(), other[layer].update(), rtol=0, atol=0)


def test_names_and_classes_agree() -> None:
    assert tuple(STRATEGIES) == STRATEGY_NAMES


@pytest.mark.parametrize("text", ALL + COMBINATIONS)
def test_three_sessions_that_remember_through_the_store(text: str) -> None:
    first, memory = live(build_strategy(text), None, FIRST, {})
    second, memory = live(build_strategy(text), first, SECOND, memory)
    third, memory = live(build_strategy(text), second, THIRD, memory)
    for version in (first, second, third):
        assert all(torch.isfinite(of.update()).all() for of in version.values())
    assert any((third[layer].update() != second[layer].update()).any() for layer in second)


@pytest.mark.parametrize("text", [name for name in ALL if name not in ("i-lora", QUICK)])
def test_a_first_session_is_plain_fine_tuning(text: str) -> None:
    assert_equal(live(build_strategy(text), None, FIRST, {})[0], live(build_strategy("none"), None, FIRST, {})[0])


@pytest.mark.parametrize("text", ALL + COMBINATIONS)
def test_a_session_begins_as_the_version_before(text: str) -> None:
    first, memory = live(build_strategy(text), None, FIRST, {})
    strategy = build_strategy(text)
    begun = opened(strategy, first, SECOND, memory)
    beside = strategy.frozen_lora()
    for layer, of in begun.lora.items():
        whole = of.update() if beside is None else beside[layer].update() + of.update()
        torch.testing.assert_close(whole, first[layer].update())


@pytest.mark.parametrize("text", ALL + COMBINATIONS)
def test_an_interrupted_session_goes_on_exactly(text: str) -> None:
    first, memory = live(build_strategy(text), None, FIRST, {})
    whole, remembered = live(build_strategy(text), first, SECOND, memory, steps=5)

    before = build_strategy(text)
    begun = opened(before, first, SECOND, memory)
    windows = [*SECOND, *before.windows()]
    for _ in range(3):
        step(before, begun, windows)
    state, weights = stored(before.state()), copied(begun.lora)

    after = build_strategy(text)
    begun_again = opened(after, first, SECOND, memory)
    windows_again = [*SECOND, *after.windows()]
    with torch.no_grad():
        for layer, of in weights.items():
            begun_again.lora[layer].a.copy_(of.a)
            begun_again.lora[layer].b.copy_(of.b)
        for parameter, value in zip(after.parameters(), before.parameters(), strict=True):
            parameter.copy_(value)
    after.resume(state)
    assert windows_again == windows
    for _ in range(2):
        step(after, begun_again, windows_again)
    published = copied(after.finish(copied(begun_again.lora)))
    assert_equal(published, whole)
    again = stored(after.remember(published))
    assert again.keys() == remembered.keys()
    for key, tensor in again.items():
        torch.testing.assert_close(tensor, remembered[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_the_documentation_tells_names_options_and_defaults(name: str) -> None:
    text = (Path(__file__).parents[4] / "docs" / "strategies.md").read_text()
    row = re.search(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
    assert row
    strategy = STRATEGIES[name]()
    for option in signature(STRATEGIES[name]).parameters:
        assert f"`{option}={getattr(strategy, option)}`" in row[0]
