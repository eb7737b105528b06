"""The gate's operating curve is what the page says, and keeps its promises."""

import pytest

from looper.platform.settings import GateSettings
from tests.docs.gate_page import PAGE, PICTURE, make_page, make_picture
from tests.jobs.gate.simulation import measure


@pytest.mark.timeout(600)
def test_the_page_and_its_picture_are_what_the_gate_decides() -> None:
    assert PAGE.read_text() == make_page(), "python -m tests.docs.gate_page"
    assert PICTURE.read_text() == make_picture(), "python -m tests.docs.gate_page"


@pytest.mark.parametrize("per_task", [1, 2])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_with_30_actions_what_is_not_better_seldom_passes_and_what_is_not_worse_is_seldom_refused(
    correlation: float, per_task: int
) -> None:
    def shares(effect: float) -> dict[str, float]:
        return dict(measure(30, effect, correlation=correlation, repetitions=4000, per_task=per_task))

    same, worse, slightly_better = shares(0.0), shares(-0.05), shares(0.05)
    assert same["passed"] <= GateSettings().false_pass_rate
    assert worse["passed"] <= 0.01
    assert max(same["refused"], slightly_better["refused"]) <= 0.02
    assert shares(-0.3)["refused"] > 10 * same["refused"]
    assert shares(0.3)["passed"] > 10 * same["passed"]
