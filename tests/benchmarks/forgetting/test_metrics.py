"""Tests of the metrics on one matrix, with results that were computed by hand."""

import pytest

from looper.benchmarks.forgetting import metrics
from looper.benchmarks.forgetting.power_law import Point, PowerLaw, fit_power_law
from looper.platform.domain.errors import InvalidInput

A = [
    [0.8, 0.1, 0.0],
    [0.9, 0.9, 0.2],
    [0.7, 0.5, 1.0],
]
BEFORE = [0.3, 0.0, 0.1]


def test_accuracy_is_the_mean_of_the_last_row() -> None:
    assert metrics.average_accuracy(A) == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert metrics.average_accuracy([[0.25, 0.75]]) == 0.5


def test_forgetting_is_measured_from_the_best_evaluation() -> None:
    assert metrics.forgetting(A) == pytest.approx(((0.9 - 0.7) + (0.9 - 0.5)) / 2)
    assert metrics.forgetting([[0.2, 0.0], [0.6, 1.0]]) == 0.0


def test_forgetting_of_minus_a_loss_is_the_rise_of_the_loss() -> None:
    assert metrics.forgetting([[-0.5, -3.0], [-0.8, -0.4]]) == pytest.approx(0.3)


def test_backward_transfer_is_measured_from_the_diagonal() -> None:
    assert metrics.backward_transfer(A) == pytest.approx(((0.7 - 0.8) + (0.5 - 0.9)) / 2)


def test_forward_transfer_is_measured_from_before_any_training() -> None:
    assert metrics.forward_transfer(A, BEFORE) == pytest.approx(((0.1 - 0.0) + (0.2 - 0.1)) / 2)


def test_the_learning_curve_counts_early_successes_more_often() -> None:
    assert metrics.area_under_learning_curve(A) == pytest.approx((0.8 + (0.8 + 0.9) / 2 + (0.8 + 0.9 + 1.0) / 3) / 3)


def test_cl_f_weighs_plasticity_against_stability() -> None:
    p, s = 0.9, 0.7
    assert metrics.plasticity(A) == pytest.approx(p)
    assert metrics.cl_f(A) == pytest.approx(2 * p * s / (p + s))
    assert metrics.cl_f(A, beta=2) == pytest.approx(5 * p * s / (4 * p + s))
    assert metrics.cl_f([[0.0, 1.0], [0.0, 0.0]]) == 0.0


@pytest.mark.parametrize("matrix", [[[1.0]], [[1.0, 0.0]], [[1.0, 0.0], [1.0]]])
def test_metrics_that_need_several_sessions_reject_other_matrices(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="square"):
        metrics.forgetting(matrix)


def test_a_power_law_is_fitted_to_its_own_points() -> None:
    law = PowerLaw(a=20.0, b=0.6, c=0.2, d=0.4, r2=1.0)
    points = [Point(n, r, law.predict(n, r)) for n in (5, 10, 20, 40, 80) for r in (2, 8, 32)]
    fitted = fit_power_law(points)
    assert fitted.r2 > 0.999
    for n, r, f in (*points, Point(160, 16, law.predict(160, 16))):
        assert fitted.predict(n, r) == pytest.approx(f, rel=0.03)


def test_a_power_law_fits_points_without_forgetting() -> None:
    fitted = fit_power_law([Point(n, 8, 0.0) for n in (1, 2, 4, 8, 16)])
    assert fitted.predict(0, 8) == fitted.predict(100, 8) == 0.0


def test_a_power_law_needs_five_points() -> None:
    with pytest.raises(InvalidInput, match="at least 5"):
        fit_power_law([Point(1, 8, 0.1)] * 4)
