"""Measure the time costs of an engine with a short run: the simulator's ``EngineCosts``.

``measurements`` calls ``calibrate`` with a function that sends requests to a running Looper.
"""

import statistics
from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from looper.benchmarks.capacity.load.clients import RequestResult
from looper.benchmarks.capacity.load.workload import WorkloadRequest
from looper.benchmarks.capacity.simulation.simulator import Cluster, EngineCosts

BURSTS = ((1, 1), (4, 1), (4, 4), (8, 1), (8, 8), (16, 1), (16, 8), (16, 16))
"""Number of running sequences and of their different adapters, for each burst.

No burst is without adapters, because such a step also lacks the fixed cost of LoRA, which would then count as the cost
of the adapters.
"""
BURST_OUTPUT_TOKENS = 48
"""Tokens of each answer in a burst."""
PROMPT_LENGTHS = (8, 64, 128, 256)
"""Prompt tokens of single requests."""
REPEATS = 5
"""Number of equal single requests, of which the median counts."""
COLD_ADAPTERS = 12
"""Adapters that are loaded one after another, first from the object store and then from the disk."""

SendRequests = Callable[[Sequence[WorkloadRequest]], list[RequestResult]]
"""Sends requests and returns their results when all have been answered."""


def calibrate(send: SendRequests, cluster: Cluster, first_cold: int) -> EngineCosts:
    """Measure the costs.

    Args:
        send: Sends requests to one engine of the cluster's size.
        cluster: Size of the engine. There have to be enough adapters to fill its host memory.
        first_cold: Number of the first of ``COLD_ADAPTERS`` adapters that were never requested.

    Returns:
        The costs.
    """
    warm = range(cluster.slots)
    send([_request(adapter=number) for number in warm])
    step, sequence, adapter = _fit_step_costs(send, cluster)
    prompt_token, request = _fit_prompt_costs(send, cluster, step + adapter)
    warm_ttft_s = _median_ttft_s(send, [_request(adapter=0)] * REPEATS)
    load = (
        _median_ttft_s(send, [_request(adapter=first_cold + number) for number in range(COLD_ADAPTERS)]) - warm_ttft_s
    )
    # Enough other adapters to evict the first cold ones from host memory.
    numbers = range(cluster.in_memory)
    send([_request(adapter=number, arrival_s=0.2 * number, output_tokens=1) for number in numbers])
    reload = (
        _median_ttft_s(send, [_request(adapter=first_cold + number) for number in range(COLD_ADAPTERS)]) - warm_ttft_s
    )
    return EngineCosts(
        step=step,
        sequence=sequence,
        prompt_token=prompt_token,
        adapter=adapter,
        request=request,
        load=max(0.0, load),
        reload=max(0.0, reload),
    )


def _request(
    adapter: int, *, arrival_s: float = 0.0, prompt_tokens: int = 16, output_tokens: int = 2
) -> WorkloadRequest:
    return WorkloadRequest(
        arrival_s=arrival_s, adapter=adapter, prompt_tokens=prompt_tokens, output_tokens=output_tokens
    )


def _fit_step_costs(send: SendRequests, cluster: Cluster) -> tuple[float, float, float]:
    """Fit the costs of a step, a sequence and an adapter by least squares; a step is the time between two tokens."""
    step_seconds, contents = [], []
    for sequences, adapters in BURSTS:
        if sequences > cluster.seats or adapters > cluster.slots:
            continue
        burst = [_request(n % adapters, output_tokens=BURST_OUTPUT_TOKENS) for n in range(sequences)]
        results = send(burst)
        # The time in which all sequences run: from the latest first token to the earliest last token.
        start_s = max(result.token_times_s[0] for result in results)
        end_s = min(result.token_times_s[-1] for result in results)
        tokens = statistics.fmean(sum(start_s < at <= end_s for at in result.token_times_s) for result in results)
        step_seconds.append((end_s - start_s) / tokens)
        contents.append((1, sequences, adapters))
    step, sequence, adapter = np.linalg.lstsq(np.array(contents, float), np.array(step_seconds), rcond=None)[0]
    return float(step), max(0.0, float(sequence)), max(0.0, float(adapter))


def _fit_prompt_costs(send: SendRequests, cluster: Cluster, step: float) -> tuple[float, float]:
    """Fit the seconds per prompt token, and the seconds of a first token besides the steps that read its prompt."""
    ttfts_s = [
        _median_ttft_s(send, [_request(0, prompt_tokens=prompt)] * REPEATS) - ceil(prompt / cluster.step_tokens) * step
        for prompt in PROMPT_LENGTHS
    ]
    slope, intercept = np.polyfit(PROMPT_LENGTHS, ttfts_s, 1)
    return float(slope), max(0.0, float(intercept))


def _median_ttft_s(send: SendRequests, requests: Sequence[WorkloadRequest]) -> float:
    """Send requests one after another; return the median time to the first token."""
    return statistics.median(send([request])[0].ttft_s for request in requests)
