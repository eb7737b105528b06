"""Teach and serve the skills of the benchmark with a Looper of its own, through the same steps as ``looper demo``.

A second run reuses what the first one taught. A skill that its gate refuses is not served, so that its agent is
answered by the base model, in life as here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import openai

from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.plan import SkillBenchSettings, list_missing_adapters
from looper.benchmarks.skill.served_models import (
    REQUEST_TIMEOUT_S,
    ServedModel,
    ServedModels,
    TaughtFor,
    add_skills_of_others,
    name_instance,
)
from looper.benchmarks.skill.worlds import WORLDS, Experience
from looper.cluster.local_ray import local_ray
from looper.demo.local_looper import consolidate, serve
from looper.demo.stage_display import StageDisplay
from looper.gym.generate import RecordedEpisode, record_episodes
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.errors import Conflict, LooperError
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings
from looper.platform.tenancy import issue_key
from looper.platform.trajectories.ingest import ingest_paths

KEY_LIFETIME = timedelta(days=3)
"""A full run on two cores takes more than a night."""


@contextmanager
def teach_and_serve(
    plan: SkillBenchSettings,
    experiences: Sequence[Experience],
    adapters: Sequence[Adapter],
    settings: Settings,
    model_dir: Path,
    stages: StageDisplay,
) -> Iterator[ServedModels]:
    """Teach the skills that are missing, and serve all of them until the context ends.

    Args:
        plan: Settings of the run.
        experiences: What the agents have lived through.
        adapters: Which adapters are needed.
        settings: Settings of the benchmark's own Looper.
        model_dir: Folder of the prepared base model.
        stages: Shows the stages.

    Yields:
        The models.

    Raises:
        LooperError: A consolidation failed.
    """
    catalog, store = Catalog.open(settings, older="migrate"), ObjectStore.open(settings)
    stages.begin("ingest")
    wanted = {
        TaughtFor(adapter, experience.world.instance, experience.seed): experience
        for adapter in (Adapter.SKILL, Adapter.BARE_TAUGHT, Adapter.NEUTRAL)
        if adapter in adapters
        for experience in experiences
    }
    instances = {
        key: InstanceName.parse(name_instance(key.adapter, experience.world, key.seed))
        for key, experience in wanted.items()
    }
    for key, experience in wanted.items():
        _ingest(instances[key], list_lessons(key.adapter, experience), catalog, store, settings)
    stages.note(f"episodes of {len(instances)} instances")
    stages.begin("ray", "a local Ray on this machine")
    with local_ray():
        recipes = {instances[key]: choose_recipe(key.adapter, plan.recipe, key.seed) for key in wanted}
        jobs = consolidate(recipes, catalog, store, settings, model_dir, stages, is_reusable=_is_judged)
        if broken := [f"{job.instance} was {job.state}: {job.reason}" for job in jobs if not _is_judged(job)]:
            raise LooperError("; ".join(broken))
        url, settings = serve(settings, model_dir, stages)
        stages.begin("ask")
        tenants = {instance.tenant for instance in instances.values()}
        clients = {
            tenant: openai.OpenAI(
                base_url=f"{url}/v1",
                api_key=issue_key(catalog, tenant, lifetime=KEY_LIFETIME),
                timeout=REQUEST_TIMEOUT_S,
            )
            for tenant in sorted(tenants)
        }
        taught = {
            key: ServedModel(clients[job.instance.tenant], _name_model(job), _count_tokens(store, job))
            for key, job in zip(wanted, jobs, strict=True)
        }
        worlds = [experience.world for experience in experiences]
        add_skills_of_others(taught, list({world.instance: world for world in worlds}.values()), plan.seeds)
        base = ServedModel(next(iter(clients.values())), settings.base)
        yield ServedModels(base, taught, list_missing_adapters(worlds), settings.serve.seats)
        stages.begin("stop", "Ray and everything that it started")


def list_lessons(adapter: Adapter, experience: Experience) -> list[RecordedEpisode]:
    """Return the episodes that an adapter is taught.

    Args:
        adapter: ``SKILL``, ``BARE_TAUGHT`` or ``NEUTRAL``.
        experience: What the agent of the world has lived through.

    Returns:
        The episodes: those of the world, those of the world without their notes, or as many of all other worlds.
    """
    if adapter is Adapter.SKILL:
        return list(experience.episodes)
    if adapter is Adapter.BARE_TAUGHT:
        return [replace(episode, notes="") for episode in experience.episodes]
    others = [world for world in WORLDS if world.instance != experience.world.instance]
    share = -(-len(experience.episodes) // len(others))
    return [episode for world in others for episode in record_episodes(world, experience.seed, share)]


def choose_recipe(adapter: Adapter, recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe of an adapter.

    Args:
        adapter: What is taught.
        recipe: Recipe of the skills.
        seed: Seed of the training.

    Returns:
        The recipe with this seed; for a bare-taught skill without any contexts.
    """
    contexts = ContextShares() if adapter is Adapter.BARE_TAUGHT else recipe.contexts
    return recipe.model_copy(update={"seed": seed, "contexts": contexts})


def _ingest(
    instance: InstanceName,
    episodes: Sequence[RecordedEpisode],
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
) -> None:
    file = settings.home / "recorded" / f"{instance}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(episode.to_jsonl() for episode in episodes))
    with suppress(Conflict):
        catalog.create_tenant(instance.tenant)
    ingest_paths([file], instance, catalog=catalog, store=store)


def _is_judged(job: Consolidation) -> bool:
    return job.state in (ConsolidationState.PUBLISHED, ConsolidationState.REJECTED)


def _name_model(job: Consolidation) -> str:
    """Return the name that answers for an instance. One that its gate left undecided has a version, too."""
    return f"{job.instance}@{job.digest}" if job.digest else job.base


def _count_tokens(store: ObjectStore, job: Consolidation) -> int:
    """Return the tokens that a skill was trained on: each step trains on a batch of windows of average length."""
    packing = SynthesisReport.model_validate_json(store.get(keys.examples(job.id, "report.json"))).packing
    if packing is None or job.progress is None:
        return 0
    window = packing.fill * packing.max_seq_length
    return round(job.progress.steps * job.recipe.batch_size * window)
