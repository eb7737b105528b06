"""Metrics of continual learning, computed from the success on every session after every session.

``report.py`` calls these functions with a matrix ``a`` of shape ``[N, N]`` for N sessions. ``a[i][j]`` is the success
on the held-out tasks of session j after training on session i, from 0 to 1. A row is one evaluation on all sessions.

The definitions are those of SWE-Bench-CL (Joshi et al., 2025, arXiv 2507.00014), and formulas count sessions from 1 as
the paper does. Any measure where higher is better can be used, also the negative loss.
"""

from collections.abc import Sequence
from statistics import fmean

Matrix = Sequence[Sequence[float]]
"""``[N, N]``. Every function except ``average_accuracy`` needs N >= 2 and raises ValueError otherwise."""


def average_accuracy(a: Matrix) -> float:
    """Return ACC = mean_j a[N][j], the success at the end. Only the last row is used.

    Args:
        a: Success matrix with at least one row, ``[rows, N]``.

    Returns:
        ACC, from 0 to 1.
    """
    return fmean(a[-1])


def forgetting(a: Matrix) -> float:
    """Return F = mean_{j<N} (max_k a[k][j] - a[N][j]), where k goes from 1 to N, so that F is never negative.

    Args:
        a: Success matrix, ``[N, N]``.

    Returns:
        F. Higher is worse: the mean loss of success from the best evaluation of a session to the last one.

    Raises:
        ValueError: ``a`` is not square or has fewer than 2 rows.
    """
    n = _check_square(a)
    return fmean(max(row[j] for row in a) - a[-1][j] for j in range(n - 1))


def backward_transfer(a: Matrix) -> float:
    """Return BWT = mean_{i<N} (a[N][i] - a[i][i]), the effect of later sessions on earlier ones.

    Args:
        a: Success matrix, ``[N, N]``.

    Returns:
        BWT. Above 0, later sessions improved earlier ones.

    Raises:
        ValueError: ``a`` is not square or has fewer than 2 rows.
    """
    n = _check_square(a)
    return fmean(a[-1][i] - a[i][i] for i in range(n - 1))


def forward_transfer(a: Matrix, before: Sequence[float]) -> float:
    """Return FWT = mean_{i<N} (a[i][i+1] - before[i+1]), the effect of a session on the next, untrained one.

    Args:
        a: Success matrix, ``[N, N]``.
        before: Success on each session before any training, ``[N]``.

    Returns:
        FWT.

    Raises:
        ValueError: ``a`` is not square or has fewer than 2 rows.
    """
    n = _check_square(a)
    return fmean(a[i][i + 1] - before[i + 1] for i in range(n - 1))


def area_under_learning_curve(a: Matrix) -> float:
    """Return AULC = mean_i mean_{k<=i} a[k][k], in which early successes count more often than late ones.

    Args:
        a: Success matrix, ``[N, N]``.

    Returns:
        AULC, from 0 to 1.

    Raises:
        ValueError: ``a`` is not square or has fewer than 2 rows.
    """
    n = _check_square(a)
    return fmean(fmean(a[k][k] for k in range(i + 1)) for i in range(n))


def plasticity(a: Matrix) -> float:
    """Return CL-P = mean_i a[i][i], the success on a session directly after training on it.

    Args:
        a: Success matrix, ``[N, N]``.

    Returns:
        CL-P, from 0 to 1.

    Raises:
        ValueError: ``a`` is not square or has fewer than 2 rows.
    """
    return fmean(a[i][i] for i in range(_check_square(a)))


def cl_f(a: Matrix, beta: float = 1.0) -> float:
    """Return CL-F_beta = (1 + beta^2) P S / (beta^2 P + S), with plasticity P = CL-P and stability S = CL-S = 1 - F.

    Args:
        a: Success matrix, ``[N, N]``.
        beta: Weight of stability. With 1, the result is the harmonic mean of P and S.

    Returns:
        CL-F, from 0 to 1. It is 0 if P and S are both 0.

    Raises:
        ValueError: ``a`` is not square or has fewer than 2 rows.
    """
    p, s = plasticity(a), 1 - forgetting(a)
    weighted = beta**2 * p + s
    return (1 + beta**2) * p * s / weighted if weighted else 0.0


def _check_square(a: Matrix) -> int:
    """Return N of an ``[N, N]`` matrix."""
    n = len(a)
    if n < 2 or any(len(row) != n for row in a):
        raise ValueError(
            f"The success matrix has {n} rows of lengths {[len(row) for row in a]}. "
            "This metric needs a square matrix of at least 2 x 2."
        )
    return n
