"""How well an instance learns and keeps what it learned, from the matrix of its success after every session.

``a[i][j]`` is the success on session j's held-out tasks after session i was trained, from 0 to 1, for N sessions: row i
is one evaluation of everything. Formulas count sessions from 1, as SWE-Bench-CL does (Joshi et al., 2025,
arXiv 2507.00014), whose definitions these are. Any measure that is better when higher will do, minus a loss too.
"""

from collections.abc import Sequence
from statistics import fmean

Matrix = Sequence[Sequence[float]]
"""``[N, N]``; every function but ``average_accuracy`` needs N >= 2 and raises ValueError otherwise."""


def average_accuracy(a: Matrix) -> float:
    """ACC = mean_j a[N][j]: what the instance can do in the end. Of the last row alone, however many there are."""
    return fmean(a[-1])


def forgetting(a: Matrix) -> float:
    """F = mean_{j<N} (max_k a[k][j] - a[N][j]), over all k from 1 to N, so that it is never negative.

    Higher is worse: the share of tasks lost of those that could be done at the best of times.
    """
    n = _sessions(a)
    return fmean(max(row[j] for row in a) - a[-1][j] for j in range(n - 1))


def backward_transfer(a: Matrix) -> float:
    """BWT = mean_{i<N} (a[N][i] - a[i][i]): what later sessions did to earlier ones; above 0 they helped."""
    n = _sessions(a)
    return fmean(a[-1][i] - a[i][i] for i in range(n - 1))


def forward_transfer(a: Matrix, before: Sequence[float]) -> float:
    """FWT = mean_{i<N} (a[i][i+1] - before[i+1]): what a session did for the next one, which was not trained yet.

    ``before[j]`` is the success on session j's tasks before any training.
    """
    n = _sessions(a)
    return fmean(a[i][i + 1] - before[i + 1] for i in range(n - 1))


def area_under_learning_curve(a: Matrix) -> float:
    """AULC = mean_i mean_{k<=i} a[k][k]: early successes count more often than late ones."""
    n = _sessions(a)
    return fmean(fmean(a[k][k] for k in range(i + 1)) for i in range(n))


def plasticity(a: Matrix) -> float:
    """CL-P = mean_i a[i][i]: how well a session is learned right after it."""
    return fmean(a[i][i] for i in range(_sessions(a)))


def cl_f(a: Matrix, beta: float = 1.0) -> float:
    """CL-F_beta = (1 + beta^2) P S / (beta^2 P + S), of plasticity P = CL-P and stability S = CL-S = 1 - F.

    The harmonic mean of the two at beta = 1; a larger beta gives stability more weight. 0 if both are 0.
    """
    p, s = plasticity(a), 1 - forgetting(a)
    weighted = beta**2 * p + s
    return (1 + beta**2) * p * s / weighted if weighted else 0.0


def _sessions(a: Matrix) -> int:
    n = len(a)
    if n < 2 or any(len(row) != n for row in a):
        raise ValueError(f"a matrix of {n} rows by {[len(row) for row in a]}: at least 2 x 2 and square is needed")
    return n
