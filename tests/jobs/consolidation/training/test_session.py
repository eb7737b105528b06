"""A training session takes some windows in each epoch, and others in one epoch only."""

from collections import Counter
from pathlib import Path

import pytest

from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable
from looper.jobs.consolidation.model.device import pick_device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.session_setup import start_session
from looper.platform.domain.example import name_rendering
from looper.platform.domain.recipe import Recipe

RECORDED, RENDERED = (
    [Window.of((1, kind, i), (0.0, 1.0, 1.0)) for i in range(2, count + 2)] for kind, count in ((5, 7), (9, 12))
)


@pytest.fixture(scope="module")
def base(base_dir: Path, one_process: None) -> SharedBase:
    return SharedBase(base_dir, pick_device())


@pytest.mark.parametrize(("parameters", "rate"), [(10**6, 2e-3), (8 * 10**9, 3.19e-4)])
def test_the_learning_rate_is_chosen_for_the_base_model(
    base: SharedBase, monkeypatch: pytest.MonkeyPatch, parameters: int, rate: float
) -> None:
    assert 0 < base.parameters < 10**6
    monkeypatch.setitem(base.__dict__, "parameters", parameters)
    session = start_session(base, Recipe(rank=2), RECORDED, None, {})
    assert session.recipe.learning_rate == pytest.approx(rate, rel=2e-3)
    session.close()
    session = start_session(base, Recipe(rank=2, learning_rate=1e-4), RECORDED, None, {})
    assert session.recipe.learning_rate == 1e-4
    session.close()


@pytest.mark.parametrize("recorded", [RECORDED, []])
def test_a_window_in_another_context_is_trained_on_once(base: SharedBase, recorded: list[Window]) -> None:
    recipe = Recipe(epochs=3, batch_size=4, rank=2)
    session = start_session(base, recipe, recorded, None, {}, once=RENDERED)
    taken: Counter[Window] = Counter()
    kinds = []
    while not session.is_done:
        batch = session.next_batch()
        taken.update(batch)
        kinds.append(any(window in RENDERED for window in batch))
        session.step += 1
    assert taken == Counter(3 * recorded + RENDERED)
    assert session.total_tokens == 3 * sum(taken.values())
    assert all(kinds[epoch * len(kinds) // 3 :][: len(kinds) // 3].count(True) for epoch in range(3)), "in each epoch"
    session.close()


def test_strategies_know_all_new_windows(base: SharedBase) -> None:
    recipe = Recipe(epochs=3, batch_size=4, rank=2)
    first = start_session(base, recipe, RECORDED, None, {}, once=RENDERED)
    adapter, _ = first.export_adapter(2)
    past = first.strategy.remember(adapter)
    first.close()
    second = start_session(base, recipe, RECORDED[:2], adapter, past, once=RENDERED[:3])
    replayed = second.total_tokens // 3 - 3 * 2 - 3
    assert replayed == pytest.approx(2 * (3 * 2 + 3), abs=2), "the share is of what all epochs take"
    second.close()


def test_the_windows_of_a_table_are_told_apart_by_their_examples() -> None:
    ids = ["1", name_rendering("1", "with_notes", 0), "2"]
    rows = [ExampleWindow(window, id, "task", None) for window, id in zip(RECORDED, ids, strict=False)]
    table = WindowTable(rows, "r")
    assert (table.recorded, table.rendered) == ([RECORDED[0], RECORDED[2]], [RECORDED[1]])
