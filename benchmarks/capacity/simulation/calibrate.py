"""What the engine takes, from a short run: the simulator's ``Costs``."""

import statistics
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from looper.benchmarks.capacity.load.clients import Answered
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.simulation.simulator import Cluster, Costs

BURSTS = ((1, 1), (4, 1), (4, 4), (8, 1), (8, 8), (16, 1), (16, 8), (16, 16))
"""Sequences that are generated for at once, and how many different adapters they have.

Without any, a step also lacks what LoRA takes however few there are, which would count as the adapters' share.
"""
BURST_ANSWER = 48
PROMPTS = (8, 64, 128, 256)
"""Tokens, of single requests."""
AGAIN = 5
COLD = 12
"""Adapters loaded one after another, from the store and then from the disk."""

Ask = Callable[[Sequence[WorkloadRequest]], list[Answered]]
"""Drives requests, and returns once all are answered."""


def calibrate(ask: Ask, cluster: Cluster, cold_from: int) -> Costs:
    """``ask`` reaches one engine like those of ``cluster``.

    There are adapters for its memory, and ``COLD`` from ``cold_from`` on that nobody has asked for.
    """
    warm = range(cluster.slots)
    ask([_one(adapter=number) for number in warm])
    step, sequence, adapter = _steps(ask, cluster)
    prompt_token, request = _prompts(ask, cluster, step + adapter)
    first = _alone(ask, [_one(adapter=0)] * AGAIN)
    load = _alone(ask, [_one(adapter=cold_from + number) for number in range(COLD)]) - first
    # Enough others that the first of the cold are in the memory no more.
    others = [_one(adapter=number, at_s=0.2 * number, answer=1) for number in range(cluster.in_memory)]
    ask(others)
    reload = _alone(ask, [_one(adapter=cold_from + number) for number in range(COLD)]) - first
    return Costs(
        step=step,
        sequence=sequence,
        prompt_token=prompt_token,
        adapter=adapter,
        request=request,
        load=max(0.0, load),
        reload=max(0.0, reload),
    )


def _one(adapter: int, *, at_s: float = 0.0, prompt: int = 16, answer: int = 2) -> WorkloadRequest:
    return WorkloadRequest(at_s=at_s, adapter=adapter, prompt=prompt, answer=answer)


def _steps(ask: Ask, cluster: Cluster) -> tuple[float, float, float]:
    """Least squares over bursts, in which a step lasts as long as the time between two tokens."""
    seconds, held = [], []
    for sequences, adapters in BURSTS:
        if sequences > cluster.seats or adapters > cluster.slots:
            continue
        burst = [_one(n % adapters, answer=BURST_ANSWER) for n in range(sequences)]
        answers = ask(burst)
        # While all are generated for: from the last one's first token to the first one's last.
        began, ended = max(a.tokens_s[0] for a in answers), min(a.tokens_s[-1] for a in answers)
        tokens = statistics.fmean(sum(began < at <= ended for at in a.tokens_s) for a in answers)
        seconds.append((ended - began) / tokens)
        held.append((1, sequences, adapters))
    step, sequence, adapter = np.linalg.lstsq(np.array(held, float), np.array(seconds), rcond=None)[0]
    return float(step), max(0.0, float(sequence)), max(0.0, float(adapter))


def _prompts(ask: Ask, cluster: Cluster, step: float) -> tuple[float, float]:
    """Seconds for a token of a prompt, and for what a first token takes besides the steps that read its prompt."""
    firsts = [
        _alone(ask, [_one(0, prompt=prompt)] * AGAIN) - ceil(prompt / cluster.step_tokens) * step for prompt in PROMPTS
    ]
    slope, rest = np.polyfit(PROMPTS, firsts, 1)
    return float(slope), max(0.0, float(rest))


def _alone(ask: Ask, asked: Sequence[WorkloadRequest]) -> float:
    """The median time to the first token, one after another."""
    return statistics.median(ask([each])[0].first_s for each in asked)
