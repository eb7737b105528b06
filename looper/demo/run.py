"""The demo, stage by stage. A second run finds what the first one left and does only what is missing."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import openai
from rich.console import Console
from rich.text import Text

from looper.cluster.local_ray import local_ray
from looper.cluster.run_until_complete import run_until_complete
from looper.demo import report as report_
from looper.demo.evaluate import Question, solve_all
from looper.demo.peak_memory import PeakMemory
from looper.demo.plan import Stage, instances_in
from looper.demo.report import DemoReport, SkillResult
from looper.demo.stage_display import Stages
from looper.gym.workplaces import WORKPLACES
from looper.jobs.basemodel.prepare import prepare
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.platform.api.submission import submit
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, Recipe
from looper.platform.domain.errors import Conflict, LooperError
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings, load_settings
from looper.platform.tenancy import issue_key
from looper.platform.trajectories.ingest import ingest
from looper.serve.deployment.ray_app import deploy

RECIPE = Recipe(rank=16, alpha=32, learning_rate=2e-3, epochs=3, batch_size=4, max_seq_length=512)
GYM_SEED = 0
"""That ``examples/`` was made from; the gym draws the same tasks from it again, to judge the answers."""
SHOWN_AS: dict[ConsolidationState, Stage] = {
    ConsolidationState.QUEUED: "synthesise",
    ConsolidationState.SYNTHESISING: "synthesise",
    ConsolidationState.TRAINING: "train",
    ConsolidationState.EVALUATING: "gate",
}


def run_demo(examples: Path, out: Path) -> None:
    """Run the loop on ``examples`` and leave ``demo.json`` and ``demo.png`` in ``out``."""
    # A polite end (make, CI, a closed terminal) is an interrupt like Ctrl-C: everything that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    settings = load_settings(home=out / "state", serve={"port": 0})
    with PeakMemory() as memory, Stages(console) as stages:
        stages.begin("base model", f"{settings.base}, made ready once and kept in {settings.models_dir}")
        model_dir = prepare(settings.base, settings.models_dir)
        catalog, store = Catalog.open(settings), ObjectStore.open(settings)

        stages.begin("ingest")
        instances = _ingest(examples, catalog, store, stages)

        stages.begin("ray", "a Ray of our own on this machine")
        with local_ray():
            jobs = _consolidate(instances, catalog, store, settings, model_dir, stages)
            stages.begin("serve", "Ray Serve in front of vLLM")
            url = deploy(settings, model_dir)
            stages.note(f"OpenAI's API at {url}/v1")
            stages.begin("ask")
            skills = _ask(url, jobs, catalog, store, settings, stages)
            stages.begin("stop", "Ray and all it started")
    report = DemoReport(skills=skills, seconds=stages.seconds, peak_memory_bytes=memory.bytes)
    (out / "demo.json").write_text(report.model_dump_json(indent=1) + "\n")
    report_.draw(report, out / "demo.png")
    console.print()
    console.print(report_.to_table(report))
    console.print(Text(report_.in_words(report)), soft_wrap=True)
    console.print(Text(f"picture: {out / 'demo.png'}   numbers: {out / 'demo.json'}"), soft_wrap=True)


def _ingest(examples: Path, catalog: Catalog, store: ObjectStore, stages: Stages) -> list[InstanceName]:
    instances, kept, rejected = [], 0, 0
    for instance, file in instances_in(examples).items():
        with contextlib.suppress(Conflict):
            catalog.create_tenant(instance.tenant)
        (outcome,) = ingest([file], instance, catalog=catalog, store=store).files
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
    stages: Stages,
) -> list[Consolidation]:
    jobs = [_wanted(instance, catalog, settings) for instance in instances]
    ids = [job.id for job in jobs]
    if all(job.state.final for job in jobs):
        stages.begin("train", "nothing to do: all skills are published from these trajectories already")
        return jobs
    with _shown(catalog, ids, stages):
        run_until_complete(catalog, store, settings, model_dir, ids)
    jobs = [catalog.consolidation(id) for id in ids]
    stages.begin("gate")
    stages.note("; ".join(f"{job.instance.instance} {job.state}" for job in jobs))
    missed = [
        f"{job.instance} was {job.state}: {job.reason}" for job in jobs if job.state != ConsolidationState.PUBLISHED
    ]
    if missed:
        raise LooperError("; ".join(missed))
    return jobs


def _wanted(instance: InstanceName, catalog: Catalog, settings: Settings) -> Consolidation:
    """The consolidation of all that was ingested: what an earlier run published or left unfinished, or a new one."""
    batches = {batch.id for batch in catalog.batches(instance)}
    for job in catalog.consolidations(instance=instance):
        if job.state == ConsolidationState.PUBLISHED and (job.base, job.recipe, set(job.batches)) == (
            settings.base,
            RECIPE,
            batches,
        ):
            return job
    (job,) = submit(catalog, settings, [instance], RECIPE)
    return job


@contextlib.contextmanager
def _shown(catalog: Catalog, ids: list[str], stages: Stages) -> Iterator[None]:
    """While entered, the stages follow the slowest of the consolidations."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.5):
            running = [job for id in ids if not (job := catalog.consolidation(id)).state.final]
            if not running:
                continue
            slowest = min(running, key=lambda job: list(ConsolidationState).index(job.state))
            stages.begin(SHOWN_AS[slowest.state], f"{len(ids)} instances as one cohort")
            if slowest.state == ConsolidationState.TRAINING and slowest.progress:
                at = slowest.progress
                loss = f", loss {at.loss:.3f}" if at.loss is not None else ""
                stages.note(f"{len(ids)} instances as one cohort, step {at.step} of {at.steps}{loss}")

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()


def _ask(
    url: str,
    jobs: list[Consolidation],
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    stages: Stages,
) -> list[SkillResult]:
    questions: list[Question] = []
    for job in jobs:
        key = issue_key(catalog, job.instance.tenant, lifetime=timedelta(hours=1))
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=300)
        workplace = WORKPLACES[str(job.instance)]
        tasks = [workplace.task(task_id, GYM_SEED) for task_id in _held_out(store, job)]
        questions += [Question(client, model, task) for model in (settings.base, str(job.instance)) for task in tasks]
    # The base's questions first: with LoRA in the batch, vLLM is slower for all of it.
    questions.sort(key=lambda question: question.model != settings.base)
    began = time.monotonic()
    solved = solve_all(
        questions,
        at_once=settings.serve.max_num_seqs,
        done=lambda ended: stages.note(f"{ended} of {len(questions)} episodes on held-out tasks"),
    )
    stages.note(f"{len(questions)} episodes on held-out tasks in {time.monotonic() - began:.0f} s")

    def share(job: Consolidation, model: str) -> float:
        hits = [
            hit
            for question, hit in zip(questions, solved, strict=True)
            if question.model == model and question.task.workplace.instance == str(job.instance)
        ]
        return sum(hits) / len(hits)

    return [
        SkillResult(
            model=str(job.instance),
            trajectories=sum(batch.trajectories for batch in catalog.batches(job.instance)),
            examples=_report(store, job).train,
            base_accuracy=share(job, settings.base),
            skill_accuracy=share(job, str(job.instance)),
            digest=job.digest or "",
            held_out_tasks=len(_held_out(store, job)),
        )
        for job in jobs
    ]


def _held_out(store: ObjectStore, job: Consolidation) -> list[str]:
    """Ids of the tasks that the consolidation was not trained on."""
    examples = read_examples(store.get(keys.examples(job.id, "holdout.parquet")))
    return sorted({example.task_id for example in examples})


def _report(store: ObjectStore, job: Consolidation) -> SynthesisReport:
    return SynthesisReport.model_validate_json(store.get(keys.examples(job.id, "report.json")))
