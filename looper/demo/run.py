"""Run the demo, stage by stage. A second run reuses the results of the first one and does only what is missing.

``looper demo`` calls ``run_demo``, which runs the real ingestion, consolidation and serving in one process.
"""

import contextlib
import signal
import time
from datetime import timedelta
from pathlib import Path
from statistics import fmean

import openai
from rich.console import Console
from rich.text import Text

from looper.basemodel.prepare import prepare_base
from looper.cluster.local_ray import local_ray
from looper.demo.arms import Knowledge, KnowledgeLayer
from looper.demo.evaluate import EpisodeRequest, run_episodes
from looper.demo.local_looper import consolidate, has_passed, serve
from looper.demo.peak_memory import PeakMemory
from looper.demo.plan import find_instances
from looper.demo.report import DemoReport, SkillResult, draw_chart, summarize_resources, to_table
from looper.demo.stage_display import StageDisplay
from looper.gym.episode import EpisodeResult
from looper.gym.workplaces import WORKPLACES
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.errors import Conflict, LooperError
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.platform.trajectories.ingest import ingest_paths

RECIPE = Recipe(
    rank=16,
    alpha=32,
    epochs=3,
    batch_size=4,
    max_seq_length=512,
    contexts=ContextShares(with_notes=0.5, with_episodes=0.3, with_wrong_episodes=0.7),
)
GYM_SEED = 0
"""Seed that ``examples/`` was generated with. The gym draws the same tasks from it again to judge the answers."""


def run_demo(examples: Path, out: Path) -> None:
    """Run the whole loop, and write ``demo.json`` and ``demo.png``.

    Args:
        examples: Folder with one ``TENANT/INSTANCE.jsonl`` per instance.
        out: Folder for the results and for the demo's own state.

    Raises:
        LooperError: A skill was not published.
    """
    # SIGTERM (from make, CI or a closed terminal) is handled like Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    settings = load_settings(home=out / "state", serve={"port": 0}, bases=())
    with PeakMemory() as memory, StageDisplay(console) as stages:
        stages.begin("base model", f"{settings.base}, prepared once and kept in {settings.models_dir}")
        model_dir = prepare_base(settings)
        catalog, store = Catalog.open(settings, older="migrate"), ObjectStore.open(settings)

        stages.begin("ingest")
        instances = _ingest(examples, catalog, store, stages)

        stages.begin("ray", "a local Ray on this machine")
        with local_ray():
            jobs = _consolidate(instances, catalog, store, settings, model_dir, stages)
            url, settings = serve(settings, model_dir, stages)
            stages.begin("ask")
            skills = _evaluate_skills(url, jobs, catalog, store, settings, stages)
            stages.begin("stop", "Ray and everything that it started")
    report = DemoReport(skills=skills, seconds=stages.seconds, peak_memory_bytes=memory.peak_bytes)
    (out / "demo.json").write_text(report.model_dump_json(indent=1) + "\n")
    draw_chart(report, out / "demo.png")
    console.print()
    console.print(to_table(report))
    console.print(Text(summarize_resources(report)), soft_wrap=True)
    console.print(Text(f"picture: {out / 'demo.png'}   numbers: {out / 'demo.json'}"), soft_wrap=True)


def _ingest(examples: Path, catalog: Catalog, store: ObjectStore, stages: StageDisplay) -> list[InstanceName]:
    instances, kept, rejected = [], 0, 0
    for instance, file in find_instances(examples).items():
        with contextlib.suppress(Conflict):
            catalog.create_tenant(instance.tenant)
        (outcome,) = ingest_paths([file], instance, catalog=catalog, store=store).files
        kept, rejected = kept + outcome.kept, rejected + outcome.rejected
        instances.append(instance)
    tenants = len({instance.tenant for instance in instances})
    stages.note(f"{kept} trajectories of {len(instances)} instances of {tenants} tenants, {rejected} rejected")
    return instances


def _consolidate(
    instances: list[InstanceName],
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    model_dir: Path,
    stages: StageDisplay,
) -> list[Consolidation]:
    recipes = dict.fromkeys(instances, RECIPE)
    jobs = consolidate(recipes, catalog, store, settings, model_dir, stages, is_reusable=has_passed)
    unpublished = [f"{job.instance} was {job.state}: {job.reason}" for job in jobs if not has_passed(job)]
    if unpublished:
        raise LooperError("; ".join(unpublished))
    return jobs


def _evaluate_skills(
    url: str,
    jobs: list[Consolidation],
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    stages: StageDisplay,
) -> list[SkillResult]:
    requests: list[EpisodeRequest] = []
    arms: list[tuple[str, str, Knowledge]] = []
    for job in jobs:
        key = issue_key(catalog, job.instance.tenant, lifetime=timedelta(hours=1))
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=300)
        workplace = WORKPLACES[str(job.instance)]
        tasks = [workplace.task(task_id, GYM_SEED) for task_id in _held_out_task_ids(store, job)]
        layer = KnowledgeLayer(read_examples(store.get(keys.examples(job.id, "train.parquet"))))
        for model in (settings.base, str(job.instance)):
            for knowledge in Knowledge:
                requests += [EpisodeRequest(client, model, task, layer.write(knowledge, task)) for task in tasks]
                arms += [(str(job.instance), model, knowledge)] * len(tasks)
    # The base model's episodes run first: with LoRA in a batch, vLLM is slower for the whole batch.
    order = sorted(range(len(requests)), key=lambda number: requests[number].model != settings.base)
    requests, arms = [requests[number] for number in order], [arms[number] for number in order]
    began = time.monotonic()
    results = run_episodes(
        requests,
        max_concurrency=settings.serve.seats,
        on_progress=lambda ended: stages.note(f"{ended} of {len(requests)} episodes on held-out tasks"),
    )
    stages.note(f"{len(requests)} episodes on held-out tasks in {time.monotonic() - began:.0f} s")

    def results_of(job: Consolidation, model: str, knowledge: Knowledge) -> list[EpisodeResult]:
        arm = (str(job.instance), model, knowledge)
        return [result for result, each in zip(results, arms, strict=True) if each == arm]

    def accuracy(job: Consolidation, model: str) -> float:
        return fmean(result.success for result in results_of(job, model, Knowledge.NONE))

    def strict(job: Consolidation, model: str) -> dict[str, float]:
        return {
            knowledge: fmean(result.is_strict_success for result in results_of(job, model, knowledge))
            for knowledge in Knowledge
        }

    return [
        SkillResult(
            model=str(job.instance),
            trajectories=sum(batch.trajectories for batch in catalog.list_batches(job.instance)),
            examples=_read_synthesis_report(store, job).train,
            base_accuracy=accuracy(job, settings.base),
            skill_accuracy=accuracy(job, str(job.instance)),
            base_strict=strict(job, settings.base),
            skill_strict=strict(job, str(job.instance)),
            digest=job.digest or "",
            held_out_tasks=len(_held_out_task_ids(store, job)),
        )
        for job in jobs
    ]


def _held_out_task_ids(store: ObjectStore, job: Consolidation) -> list[str]:
    """Return the ids of the tasks that the consolidation did not train on."""
    examples = read_examples(store.get(keys.examples(job.id, "holdout.parquet")))
    return sorted({example.task_id for example in examples})


def _read_synthesis_report(store: ObjectStore, job: Consolidation) -> SynthesisReport:
    return SynthesisReport.model_validate_json(store.get(keys.examples(job.id, "report.json")))
