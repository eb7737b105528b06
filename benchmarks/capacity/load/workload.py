"""The load: S-LoRA's generator (Sheng et al., 2024, arXiv 2311.03285, section 7).

Which adapter a request is for follows a power law, when it comes a gamma process, how long prompt and answer are is
uniform. The same numbers give the same requests, whoever serves them.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class Load(BaseModel):
    """What clients ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapters: int = Field(ge=0, description="how many there are; 0: requests are for the base model")
    rate: float = Field(gt=0, description="requests in a second, on average")
    seconds: float = Field(gt=0, description="for so long they come")
    alpha: float = Field(1.0, ge=0, description="the k-th adapter is asked for k^-alpha as often as the first")
    cv: float = Field(1.0, gt=0, description="of the times between requests; 1 is Poisson's, more is burstier")
    prompt: tuple[int, int] = Field((8, 128), description="tokens of a prompt, least and most")
    answer: tuple[int, int] = Field((8, 32), description="tokens of an answer, least and most")
    seed: int = 0


class WorkloadRequest(BaseModel):
    """One request of the load."""

    model_config = ConfigDict(frozen=True)

    at_s: float
    adapter: int | None
    prompt: int
    answer: int


def draw(load: Load) -> list[WorkloadRequest]:
    """The requests, in the order in which they come."""
    random = np.random.default_rng(load.seed)
    # Shape 1/cv^2 and scale cv^2/rate: mean 1/rate, and cv of the times between two.
    count = max(1, round(load.rate * load.seconds))
    gaps = random.gamma(1 / load.cv**2, load.cv**2 / load.rate, count)
    adapters = _adapters(load, random, count)
    prompts, answers = (random.integers(low, high + 1, count) for low, high in (load.prompt, load.answer))
    return [
        WorkloadRequest(at_s=float(at), adapter=adapter, prompt=int(prompt), answer=int(answer))
        for at, adapter, prompt, answer in zip(np.cumsum(gaps), adapters, prompts, answers, strict=True)
    ]


def _adapters(load: Load, random: np.random.Generator, count: int) -> Sequence[int | None]:
    if load.adapters == 0:
        return [None] * count
    return [int(each) for each in random.choice(load.adapters, count, p=popularity(load.adapters, load.alpha))]


def popularity(adapters: int, alpha: float) -> np.ndarray:
    """The share of the requests that is for each adapter, the most popular first."""
    weights = np.arange(1, adapters + 1, dtype=float) ** -alpha
    shares: np.ndarray = weights / weights.sum()
    return shares
