"""Metrics of a stream, in which most sessions are evaluated only now and then.

``stream_report.py`` calls these functions with the cells that were evaluated: ``cells[i][j]`` is the success on the
held-out tasks of session j after training on session i, both counted from 0. The definitions are those of
``metrics.py``, over the evaluated cells.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

Cells = Sequence[Mapping[int, float]]
"""One row for each trained session. Every row has its own session, and the last row has all of them."""


def average_accuracy(cells: Cells) -> float:
    """Return ACC, the mean success on all sessions after the last one.

    Args:
        cells: At least one row.

    Returns:
        From 0 to 1.
    """
    return fmean(cells[-1].values())


def forgetting(cells: Cells) -> float:
    """Return F = mean_{j<N} (max_k a[k][j] - a[N][j]) over the evaluated k.

    Args:
        cells: At least two rows.

    Returns:
        From 0 to 1. Higher is worse.
    """
    last = cells[-1]
    return fmean(max(row[j] for row in cells if j in row) - value for j, value in last.items() if j < len(cells) - 1)


def worst_dip(cells: Cells) -> float:
    """Return the largest drop of any session from its best evaluation before, after any session.

    Every version is served here, because the benchmark has no gate.

    Args:
        cells: At least one row.

    Returns:
        From 0 to 1. Higher is worse.
    """
    best: dict[int, float] = {}
    worst = 0.0
    for row in cells:
        for j, value in row.items():
            best[j] = max(best.get(j, value), value)
            worst = max(worst, best[j] - value)
    return worst


def worst_mean_dip(cells: Cells) -> float:
    """Return the largest drop of the mean success on all earlier sessions from the mean of their best before.

    A single session has few held-out tasks, so that one lost task is a large dip. This is the same for all of them.

    Args:
        cells: At least one row.

    Returns:
        From 0 to 1. Only rows in which all sessions so far were evaluated count.
    """
    best: dict[int, float] = {}
    worst = 0.0
    for number, row in enumerate(cells):
        for j, value in row.items():
            best[j] = max(best.get(j, value), value)
        if len(row) == number + 1:
            worst = max(worst, fmean(best[j] - value for j, value in row.items()))
    return worst


def plasticity(cells: Cells, first: int, last: int) -> float:
    """Return the mean success on a session directly after training on it.

    Args:
        cells: The rows.
        first: First session that counts.
        last: The session after the last one that counts.

    Returns:
        From 0 to 1.
    """
    return fmean(cells[i][i] for i in range(first, last))
