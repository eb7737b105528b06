"""What a trainer asks Ray for."""

import pytest

from looper.jobs.consolidation.training.training_run import scale
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import load_settings
from looper.platform.settings.gpu_plan import GpuPlan


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_workers": 3}, 3),
        ({"num_workers": 3, "min_workers": 3}, 3),
        ({"num_workers": 3, "min_workers": 1}, (1, 3)),
    ],
)
def test_a_trainer_that_may_be_smaller_is_elastic(given: dict[str, int], expected: int | tuple[int, int]) -> None:
    settings = load_settings(consolidation=given)
    assert scale(settings, GpuPlan(0, 0)).num_workers == expected


def test_the_least_number_of_workers_is_not_above_the_most() -> None:
    with pytest.raises(InvalidInput, match=r"consolidation\.min_workers = '?3'?.*above num_workers, which is 2"):
        load_settings(consolidation={"num_workers": 2, "min_workers": 3})
