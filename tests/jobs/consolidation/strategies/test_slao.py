"""SLAO: an orthonormal basis that changes nothing, and a merge that slows down."""

import pytest
import torch

from looper.jobs.consolidation.adapters.lora import Factors
from looper.jobs.consolidation.strategies.slao import Slao
from tests.jobs.consolidation.strategies.life import factors, parameters, random_lora, session, stored

START = {"layer": factors([[1, 0], [0, 1], [2, 1]], [[3, 4, 0], [0, 5, 0]], scale=2)}


def test_the_start_is_orthonormal_and_the_same_update() -> None:
    lora = parameters(START)
    Slao().begin(session(lora, START), {})
    torch.testing.assert_close(lora["layer"].a @ lora["layer"].a.T, torch.eye(2))
    torch.testing.assert_close(lora["layer"].update(), START["layer"].update())


@pytest.mark.parametrize(("sessions", "share"), [(1, 2**-0.5), (3, 0.5), (8, 1 / 3)])
def test_later_sessions_change_b_less_and_take_the_new_a(sessions: int, share: float) -> None:
    lora = parameters(START)
    strategy = Slao()
    strategy.begin(session(lora, START), {"sessions": torch.tensor(sessions)})
    before = lora["layer"].b.detach().clone()
    trained = {"layer": Factors(torch.full((2, 3), 7.0), before + 1, scale=2)}
    published = strategy.finish(trained)
    torch.testing.assert_close(published["layer"].b, before + share)
    assert published["layer"].a is trained["layer"].a
    assert published["layer"].scale == 2
    assert stored(strategy.remember(published))["sessions"] == sessions + 1


def test_beside_a_growing_strategy_the_updates_are_averaged() -> None:
    start, whole = random_lora(1), random_lora(2, rank=4)
    lora = {layer: Factors(of.a * 1.0, of.b * 1.0, of.scale) for layer, of in parameters(whole).items()}  # no leaves
    strategy = Slao()
    strategy.begin(session(lora, start), {"sessions": torch.tensor(3)})
    published = strategy.finish(whole)
    for layer, of in published.items():
        torch.testing.assert_close(of.update(), 0.5 * start[layer].update() + 0.5 * whole[layer].update())


def test_a_first_session_is_published_as_it_is() -> None:
    lora = parameters(START)
    strategy = Slao()
    strategy.begin(session(lora), {})
    torch.testing.assert_close(lora["layer"].a.detach(), START["layer"].a)
    assert strategy.finish(START) is START
    assert stored(strategy.remember(START))["sessions"] == 1
