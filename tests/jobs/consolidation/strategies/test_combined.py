import pytest
import torch

from looper.jobs.consolidation.adapters.lora import stack_adapters
from looper.jobs.consolidation.strategies.combined import Combined
from looper.jobs.consolidation.strategies.distill import Distill
from looper.jobs.consolidation.strategies.ella import Ella
from looper.jobs.consolidation.strategies.ewc import OnlineEwc
from looper.jobs.consolidation.strategies.merge import Merge
from looper.jobs.consolidation.strategies.o_lora import OLora
from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.registry import build_strategy
from looper.jobs.consolidation.strategies.replay import Replay
from looper.platform.domain.errors import InvalidInput
from tests.jobs.consolidation.strategies.life import live, opened, parameters, random_lora, session, window

FIRST, SECOND = [window(0, 1), window(2, 3)], [window(3, 0), window(1, 1)]


def test_penalties_add_up() -> None:
    start, lora = random_lora(1), parameters(random_lora(2))
    single = []
    for strategy in (Ella(weight=2), Distill(), Combined({"ella": Ella(weight=2), "distill": Distill()})):
        strategy.begin(session(lora, start), {})
        penalty = strategy.penalty()
        assert penalty is not None
        single.append(penalty.item())
    assert single[2] == pytest.approx(single[0] + single[1])


def test_distillation_looks_at_what_is_replayed_before_it() -> None:
    first, memory = live(build_strategy("replay"), None, FIRST, {})
    lora = parameters(random_lora(2))
    penalties = []
    for text, windows in (("replay(share=1)+distill", SECOND), ("distill", FIRST), ("distill+replay(share=1)", SECOND)):
        strategy = build_strategy(text)
        strategy.begin(session(lora, first, windows), memory)
        penalty = strategy.penalty()
        assert penalty is not None
        penalties.append(penalty.item())
    assert penalties[0] == pytest.approx(penalties[1])
    assert penalties[0] != pytest.approx(penalties[2])


def test_a_strategy_finds_its_memory_in_another_combination() -> None:
    first, memory = live(build_strategy("replay"), None, FIRST, {})
    strategy = build_strategy("ella+replay(share=1)+i-lora")
    opened(strategy, first, SECOND, memory)
    assert set(strategy.windows()) == set(FIRST)


def test_others_see_the_whole_of_what_grows() -> None:
    start, block = random_lora(1), random_lora(2)
    whole = parameters(stack_adapters(start, block))
    alone = Ella()
    alone.begin(session(whole, start), {})
    together = Combined({"ella": Ella(), "progressive": Progressive()})
    assert together.grows
    together.begin(session(parameters(block), start), {})
    expected, penalty = alone.penalty(), together.penalty()
    assert expected is not None
    assert penalty is not None
    torch.testing.assert_close(penalty, expected)


def test_finishes_follow_each_other() -> None:
    # The whole, start + block, is merged with the start: start + block / 2.
    start, block = random_lora(1), random_lora(2)
    strategy = Combined({"merge": Merge(), "progressive": Progressive()})
    strategy.begin(session(parameters(block), start), {})
    for layer, published in strategy.finish(block).items():
        torch.testing.assert_close(published.update(), start[layer].update() + block[layer].update() / 2)


def test_only_one_may_grow() -> None:
    with pytest.raises(InvalidInput, match="o-lora and progressive"):
        Combined({"o-lora": OLora(), "ewc": OnlineEwc(), "progressive": Progressive()})


def test_windows_are_drawn_once() -> None:
    first, memory = live(build_strategy("replay"), None, FIRST, {})
    strategy = Combined({"replay": Replay(share=1)})
    opened(strategy, first, SECOND, memory)
    assert strategy.windows() == strategy.windows()
