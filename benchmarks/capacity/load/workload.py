"""Generate the requests of a load, with S-LoRA's generator (Sheng et al., 2024, arXiv 2311.03285, section 7).

The adapter of a request follows a power law, the arrivals are a gamma process, and the lengths of prompt and answer are
uniform. The same ``LoadSpec`` always gives the same requests, for every peer and for the simulator.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class LoadSpec(BaseModel):
    """The distribution of the requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapters: int = Field(ge=0, description="number of adapters; 0: all requests are for the base model")
    rate: float = Field(gt=0, description="mean number of requests per second")
    seconds: float = Field(gt=0, description="duration of the load")
    alpha: float = Field(1.0, ge=0, description="the k-th adapter is requested k^-alpha times as often as the first")
    cv: float = Field(1.0, gt=0, description="coefficient of variation of the inter-arrival times; 1 is Poisson")
    prompt_tokens: tuple[int, int] = Field((8, 128), description="minimum and maximum length of a prompt")
    output_tokens: tuple[int, int] = Field((8, 32), description="minimum and maximum length of an answer")
    seed: int = Field(0, description="seed of the generator")


class WorkloadRequest(BaseModel):
    """One request of the load."""

    model_config = ConfigDict(frozen=True)

    arrival_s: float
    """Seconds from the start of the load until the request is due."""
    adapter: int | None
    """Number of the adapter; None for the base model."""
    prompt_tokens: int
    """Length of the prompt."""
    output_tokens: int
    """Length of the answer."""


def generate_requests(load: LoadSpec) -> list[WorkloadRequest]:
    """Generate the requests of a load.

    Args:
        load: Their distribution.

    Returns:
        The requests, in the order of their arrival.
    """
    random = np.random.default_rng(load.seed)
    # Shape 1/cv^2 and scale cv^2/rate give inter-arrival times with mean 1/rate and coefficient of variation cv.
    count = max(1, round(load.rate * load.seconds))
    gaps_s = random.gamma(1 / load.cv**2, load.cv**2 / load.rate, count)
    adapters = _choose_adapters(load, random, count)
    prompts, outputs = (random.integers(low, high + 1, count) for low, high in (load.prompt_tokens, load.output_tokens))
    return [
        WorkloadRequest(arrival_s=float(at), adapter=adapter, prompt_tokens=int(prompt), output_tokens=int(output))
        for at, adapter, prompt, output in zip(np.cumsum(gaps_s), adapters, prompts, outputs, strict=True)
    ]


def _choose_adapters(load: LoadSpec, random: np.random.Generator, count: int) -> Sequence[int | None]:
    if load.adapters == 0:
        return [None] * count
    shares = adapter_popularity(load.adapters, load.alpha)
    return [int(number) for number in random.choice(load.adapters, count, p=shares)]


def adapter_popularity(adapters: int, alpha: float) -> np.ndarray:
    """Return the share of the requests that each adapter gets, under a power law.

    Args:
        adapters: Number of adapters.
        alpha: Exponent of the power law; 0 is uniform.

    Returns:
        The shares, ``[adapters]``, the most popular adapter first.
    """
    weights = np.arange(1, adapters + 1, dtype=float) ** -alpha
    shares: np.ndarray = weights / weights.sum()
    return shares
