"""The models that the arms ask, by what they were taught.

``local_skills.py`` brings them up on this machine; ``find_models`` finds those of an endpoint that already runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import openai

from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.chat import MeteredChat
from looper.gym.workplace import Workplace
from looper.platform.domain.errors import LooperError

REQUEST_TIMEOUT_S = 600
"""Timeout of one request, in seconds. Several prompts of thousands of tokens wait for one another on a CPU."""


class TaughtFor(NamedTuple):
    """Which model of a world is meant."""

    adapter: Adapter
    """What it was taught."""
    world: str
    """Name of the world."""
    seed: int
    """Seed of the episodes that it was taught on."""


@dataclass(frozen=True)
class ServedModel:
    """A model at an endpoint."""

    client: openai.OpenAI
    """Client that may ask it."""
    name: str
    """Its name there."""
    learning_tokens: int | None = 0
    """Tokens that it was trained on, each pass counted; None if that is not known."""

    def open_chat(self) -> MeteredChat:
        """Return a chat that has asked nothing yet."""
        return MeteredChat(self.client, self.name)


@dataclass(frozen=True)
class ServedModels:
    """All models of a run."""

    base: ServedModel
    """The base model."""
    taught: Mapping[TaughtFor, ServedModel]
    """The adapters."""
    missing: Mapping[Adapter, str] = field(default_factory=dict)
    """Why there is no adapter of a kind."""
    max_concurrency: int = 8
    """Maximum number of episodes at the same time."""

    def find(self, adapter: Adapter, world: str, seed: int) -> ServedModel | None:
        """Return the model of an arm, or None if there is none.

        Args:
            adapter: What it was taught.
            world: Name of the world.
            seed: Seed of the episodes.
        """
        return self.base if adapter is Adapter.BASE else self.taught.get(TaughtFor(adapter, world, seed))


def name_instance(adapter: Adapter, world: Workplace, seed: int) -> str:
    """Return the name of the instance whose skill is an adapter of the benchmark.

    Args:
        adapter: ``SKILL``, ``BARE_TAUGHT`` or ``NEUTRAL``.
        world: The world.
        seed: Seed of the episodes.

    Returns:
        A name such as ``harbor/dispatch-bare-0``.
    """
    suffix = {Adapter.SKILL: "", Adapter.BARE_TAUGHT: "-bare", Adapter.NEUTRAL: "-neutral"}[adapter]
    return f"{world.instance}{suffix}-{seed}"


def add_skills_of_others(
    taught: dict[TaughtFor, ServedModel], worlds: Iterable[Workplace], seeds: Iterable[int]
) -> None:
    """Give every world the skill of a world of another tenant, if there is one.

    Args:
        taught: The adapters, to which these are added.
        worlds: The worlds of the run.
        seeds: The seeds of the run.
    """
    worlds = list(worlds)
    for seed in seeds:
        for world in worlds:
            tenant = world.instance.partition("/")[0]
            others = (each.instance for each in worlds if each.instance.partition("/")[0] != tenant)
            found = (taught.get(TaughtFor(Adapter.SKILL, other, seed)) for other in others)
            if other := next((each for each in found if each), None):
                taught[TaughtFor(Adapter.WRONG_TENANT, world.instance, seed)] = other


def find_models(url: str, key: str, model: str, worlds: Iterable[Workplace], seeds: Iterable[int]) -> ServedModels:
    """Find the models of an endpoint that already runs.

    Args:
        url: Base URL of OpenAI's API, which usually ends in ``/v1``.
        key: Key of the endpoint.
        model: Name of the base model there.
        worlds: The worlds of the run.
        seeds: The seeds of the run.

    Returns:
        The base model, and the skills that the endpoint lists under the names that ``name_instance`` gives them.

    Raises:
        LooperError: The endpoint does not answer, or does not have the model.
    """
    client = openai.OpenAI(base_url=url, api_key=key, timeout=REQUEST_TIMEOUT_S)
    try:
        listed = {each.id for each in client.models.list()}
    except openai.OpenAIError as error:
        raise LooperError(f"endpoint {url} does not list its models: {error}") from error
    if model not in listed:
        raise LooperError(f"endpoint {url} has no model {model!r}: it has {', '.join(sorted(listed)[:8])}")
    worlds, seeds = list(worlds), list(seeds)
    taught = {
        TaughtFor(adapter, world.instance, seed): ServedModel(client, name, learning_tokens=None)
        for adapter in (Adapter.SKILL, Adapter.BARE_TAUGHT, Adapter.NEUTRAL)
        for world in worlds
        for seed in seeds
        if (name := name_instance(adapter, world, seed)) in listed
    }
    add_skills_of_others(taught, worlds, seeds)
    absent = [adapter for adapter in Adapter if adapter is not Adapter.BASE]
    return ServedModels(
        ServedModel(client, model),
        taught,
        dict.fromkeys(absent, f"endpoint {url} has none under the benchmark's name"),
    )
