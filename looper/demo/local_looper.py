"""Bring up Looper inside one command: consolidate instances on the current Ray, and serve their skills.

The demo and ``looper bench skill`` use it, so that both train and serve in the same way.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from looper.basemodel.node_copies import BaseModelSource
from looper.cluster.run_until_complete import run_until_complete
from looper.demo.plan import DemoStage
from looper.demo.stage_display import StageDisplay
from looper.platform.api.submission import submit_consolidations
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.names import InstanceName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.serve.deployment.gpu_defaults import fit_to_gpus
from looper.serve.deployment.ray_app import build_app, deploy, plan_cluster

STAGE_OF_STATE: dict[ConsolidationState, DemoStage] = {
    ConsolidationState.QUEUED: "synthesize",
    ConsolidationState.SYNTHESISING: "synthesize",
    ConsolidationState.TRAINING: "train",
    ConsolidationState.EVALUATING: "gate",
}
"""The stage that is shown for each state of a consolidation."""


def consolidate(
    recipes: Mapping[InstanceName, Recipe],
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    model_dir: Path,
    stages: StageDisplay,
    *,
    is_reusable: Callable[[Consolidation], bool],
) -> list[Consolidation]:
    """Consolidate instances on the current Ray, as one cohort, and wait for them.

    Args:
        recipes: The recipe of each instance.
        catalog: Catalog of this Looper.
        store: Its object store.
        settings: Its settings.
        model_dir: Folder of the prepared base model.
        stages: Shows the stages.
        is_reusable: Whether an earlier consolidation of the same batches with the same recipe is good enough.

    Returns:
        The consolidations, each in a final state, in the order of ``recipes``.
    """
    jobs = [_find_or_submit(name, recipe, catalog, store, settings, is_reusable) for name, recipe in recipes.items()]
    ids = [job.id for job in jobs]
    if all(job.state.is_final for job in jobs):
        stages.begin("train", "nothing to do: all skills are published from these trajectories already")
        return jobs
    with _show_progress(catalog, ids, stages):
        run_until_complete(catalog, store, settings, {settings.base: model_dir}, ids)
    jobs = [catalog.get_consolidation(id) for id in ids]
    stages.begin("gate")
    stages.note("; ".join(f"{job.instance.instance} {job.state}" for job in jobs))
    return jobs


def serve(settings: Settings, model_dir: Path, stages: StageDisplay) -> tuple[str, Settings]:
    """Serve the base model with all adapters on the current Ray.

    Args:
        settings: Settings of this Looper.
        model_dir: Folder of the prepared base model.
        stages: Shows the stage.

    Returns:
        URL of the gateway, whose ``/v1`` is OpenAI's API, and the settings with what fits this machine's GPUs.
    """
    stages.begin("serve", "Ray Serve in front of vLLM")
    gpus = plan_cluster(settings)
    settings = fit_to_gpus(settings, {settings.base: model_dir}, gpus)
    url = deploy(settings, build_app(settings, {settings.base: BaseModelSource(model_dir)}, gpus))
    stages.note(f"OpenAI's API at {url}/v1")
    return url, settings


def has_passed(job: Consolidation) -> bool:
    """Return whether a consolidation is published and its gate had no doubt.

    Args:
        job: The consolidation.
    """
    return job.state == ConsolidationState.PUBLISHED and job.verdict is not None and job.verdict.passed


def _find_or_submit(
    instance: InstanceName,
    recipe: Recipe,
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    is_reusable: Callable[[Consolidation], bool],
) -> Consolidation:
    """Return the consolidation of all batches: one that an earlier run finished or left unfinished, or a new one."""
    batches = {batch.id for batch in catalog.list_batches(instance)}
    for job in catalog.list_consolidations(instance=instance):
        if is_reusable(job) and (job.base, job.recipe, set(job.batches)) == (settings.base, recipe, batches):
            return job
    (job,) = submit_consolidations(catalog, store, settings, [instance], recipe)
    return job


@contextlib.contextmanager
def _show_progress(catalog: Catalog, ids: list[str], stages: StageDisplay) -> Iterator[None]:
    """Show the stage of the slowest consolidation until the context ends."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.5):
            jobs = [catalog.get_consolidation(id) for id in ids]
            running = [job for job in jobs if not job.state.is_final]
            if not running:
                continue
            slowest = min(running, key=lambda job: list(ConsolidationState).index(job.state))
            stages.begin(STAGE_OF_STATE[slowest.state], f"{len(ids)} instances as one cohort")
            if slowest.state == ConsolidationState.TRAINING and slowest.progress:
                loss = f", loss {slowest.progress.loss:.3f}" if slowest.progress.loss is not None else ""
                known = [job.progress for job in jobs if job.progress]
                done, steps = sum(each.step for each in known), sum(each.steps for each in known)
                stages.note(f"{len(ids)} instances as one cohort, step {done} of {steps}{loss}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
