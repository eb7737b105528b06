"""The benchmark's own Looper: what it ingests and consolidates, and by which names and keys its skills are asked."""

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from looper.benchmarks.skill import local_skills
from looper.benchmarks.skill.arms.arm import Adapter
from looper.benchmarks.skill.local_skills import teach_and_serve
from looper.benchmarks.skill.plan import plan_settings
from looper.benchmarks.skill.worlds import record_experience
from looper.demo.stage_display import StageDisplay
from looper.gym.workplaces import DISPATCH, OPS
from looper.jobs.synthesis.output.report import SynthesisReport, VerdictCounts
from looper.jobs.synthesis.output.window_statistics import PackingStatistics
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, TrainingProgress
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings

PACKING = PackingStatistics(
    examples=30,
    max_seq_length=512,
    p50=150,
    p95=300,
    longest=400,
    divided=0,
    truncated=0,
    windows=20,
    loss=0.3,
    fill=0.5,
)
STEPS = 30


def judge_at_once(
    recipes: Mapping[InstanceName, Recipe], catalog: Catalog, store: ObjectStore, *others: Any, **named: Any
) -> list[Consolidation]:
    """Stand in for a trainer and its gate, which refuses the skills that were taught bare."""
    jobs = []
    for number, (instance, recipe) in enumerate(recipes.items()):
        batches = catalog.list_batches(instance)
        assert sum(batch.trajectories for batch in batches) > 0
        refused = "-bare" in instance.instance
        now = datetime.now(UTC)
        job = Consolidation(
            id=f"{number:032x}",
            instance=instance,
            state=ConsolidationState.REJECTED if refused else ConsolidationState.PUBLISHED,
            base="smollm2-135m",
            recipe=recipe,
            batches=tuple(batch.id for batch in batches),
            parent=None,
            priority=0,
            attempts=1,
            owner=None,
            reason=None,
            verdict=None,
            digest=None if refused else f"{number:064x}",
            progress=TrainingProgress(step=STEPS, steps=STEPS),
            created_at=now,
            started_at=now,
            ended_at=now,
            updated_at=now,
        )
        report = SynthesisReport(
            trajectories=12, train=12, holdout=0, rejected={}, failure=None, tally=VerdictCounts(), packing=PACKING
        )
        store.put(keys.examples(job.id, "report.json"), report.model_dump_json().encode())
        jobs.append(job)
    return jobs


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(settings: Settings, *others: Any) -> tuple[str, Settings]:
        return "http://127.0.0.1:1", settings

    monkeypatch.setattr(local_skills, "local_ray", nullcontext)
    monkeypatch.setattr(local_skills, "consolidate", judge_at_once)
    monkeypatch.setattr(local_skills, "serve", serve)


def test_skills_are_asked_by_their_versions_and_refused_ones_are_the_base(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, bases=())
    worlds = [DISPATCH.instance, OPS.instance]
    plan = plan_settings(
        endpoint="local", base=settings.base, worlds=worlds, recipe=Recipe(), max_context_tokens=4_096, quick=True
    )
    experiences = [record_experience(world, 0, 12) for world in (DISPATCH, OPS)]
    with (
        StageDisplay(Console(stderr=True)) as stages,
        teach_and_serve(plan, experiences, list(Adapter), settings, tmp_path, stages) as models,
    ):
        skill = models.find(Adapter.SKILL, "harbor/dispatch", 0)
        other = models.find(Adapter.SKILL, "orchard/ops", 0)
        bare = models.find(Adapter.BARE_TAUGHT, "harbor/dispatch", 0)
        neutral = models.find(Adapter.NEUTRAL, "harbor/dispatch", 0)
        wrong = models.find(Adapter.WRONG_TENANT, "harbor/dispatch", 0)
    assert skill is not None
    assert other is not None
    assert bare is not None
    assert neutral is not None
    assert skill.name == f"harbor/dispatch-0@{0:064x}"
    assert neutral.name.startswith("harbor/dispatch-neutral-0@")
    assert bare.name == models.base.name == settings.base
    assert wrong is other
    assert skill.client.api_key != other.client.api_key
    assert skill.client.api_key == neutral.client.api_key
    assert skill.learning_tokens == STEPS * 4 * 256
    assert models.missing == {}
