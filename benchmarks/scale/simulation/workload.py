"""The load of a simulation: which adapter is asked for when, with the skew, the bursts and the day of public traces.

Figures from traces, each computed from the published files or taken from the paper that is named:

- **Skew of adapters.** A power law with exponent 1, as S-LoRA assumes (Sheng et al., 2024, arXiv 2311.03285, section
  7). No public trace has many adapters. The clients that ServeGen published (github.com/alibaba/ServeGen at f891d11)
  are more skewed: 9 of 43, 22 of 108 and 39 of 162 send nine tenths of the requests of its three language models.
- **Bursts.** The median client of these traces has a coefficient of variation of 1.2 between its requests, and the
  requests of Azure's conversation trace of 2023 (github.com/Azure/AzurePublicDataset at b469a11) have 1.1.
- **The day.** In windows of ten minutes, ServeGen's three language models have 0.32 to 0.40 times (first percentile) to
  1.75 to 2.08 times (99th) their mean rate.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from looper.benchmarks.capacity.load.workload import adapter_popularity

BURST_CV = 1.2
"""Coefficient of variation of a tenant's rate from one window to the next."""

WINDOW_S = 10.0
"""Time for which a tenant's rate stays the same, in seconds."""

DAY_RANGE = (0.35, 1.75)
"""Lowest and highest rate of a day, as multiples of its mean."""


class ScaleLoad(BaseModel):
    """The distribution of the requests."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapters: int = Field(gt=0, description="number of adapters")
    tenants: int = Field(gt=0, description="number of tenants; the adapters are divided among them by popularity")
    rate: float = Field(gt=0, description="mean requests per second")
    seconds: float = Field(gt=0, description="duration of the load")
    alpha: float = Field(1.0, ge=0, description="the k-th adapter is requested k^-alpha times as often as the first")
    day_s: float | None = Field(None, gt=0, description="duration of a day; None: the rate is even")
    flood_share: float = Field(0.0, ge=0, lt=1, description="share of the requests that the first tenant adds")
    prompt_tokens: tuple[int, int] = Field((8, 128), description="minimum and maximum length of a prompt")
    output_tokens: tuple[int, int] = Field((8, 32), description="minimum and maximum length of an answer")
    seed: int = Field(0, description="seed of the generator")


@dataclass(frozen=True)
class Arrival:
    """One request of the load."""

    at_s: float
    """Time of arrival, in seconds."""
    adapter: int
    """Number of the adapter, 0 is the most popular."""
    prompt_tokens: int
    """Length of the prompt."""
    output_tokens: int
    """Length of the answer."""


def generate_arrivals(load: ScaleLoad) -> Iterator[Arrival]:
    """Generate the requests of a load, window by window.

    Args:
        load: Their distribution.

    Yields:
        The requests, in the order of their arrival.
    """
    random = np.random.default_rng(load.seed)
    shares, tenants = adapter_popularity(load.adapters, load.alpha), np.arange(load.adapters) % load.tenants
    begin_s = 0.0
    while begin_s < load.seconds:
        length_s = min(WINDOW_S, load.seconds - begin_s)
        bursts = random.gamma(1 / BURST_CV**2, BURST_CV**2, load.tenants)
        cumulative = np.cumsum(shares * bursts[tenants])
        mean = load.rate * daily_factor(load, begin_s + length_s / 2) * length_s
        # The popular tenants' bursts move the rate of the whole, too.
        counts = random.poisson(mean * cumulative[-1]), random.poisson(mean * load.flood_share / (1 - load.flood_share))
        chosen = np.searchsorted(cumulative, random.random(counts[0]) * cumulative[-1], side="right")
        flood = random.integers(0, -(-load.adapters // load.tenants), counts[1]) * load.tenants
        adapters = np.concatenate([np.minimum(chosen, load.adapters - 1), np.minimum(flood, load.adapters - 1)])
        times = begin_s + random.random(len(adapters)) * length_s
        prompts, outputs = (
            random.integers(low, high + 1, len(adapters)) for low, high in (load.prompt_tokens, load.output_tokens)
        )
        order: npt.NDArray[np.intp] = np.argsort(times, kind="stable")
        for index in order:
            yield Arrival(float(times[index]), int(adapters[index]), int(prompts[index]), int(outputs[index]))
        begin_s += length_s


def daily_factor(load: ScaleLoad, at_s: float) -> float:
    """Return the rate at a time, as a multiple of the mean.

    Args:
        load: The load.
        at_s: The time, in seconds. The day begins at its quietest hour.

    Returns:
        The multiple, 1 without a day.
    """
    if load.day_s is None:
        return 1.0
    low, high = DAY_RANGE
    wave = 0.5 - 0.5 * math.cos(2 * math.pi * at_s / load.day_s)
    return (low + (high - low) * wave) / statistics.fmean(DAY_RANGE)
