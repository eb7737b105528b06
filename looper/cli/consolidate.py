"""``looper consolidate``"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import needs
from looper.cli.output import Json, emit_json, progress, table
from looper.cli.watch import exit_if_failed, watch, why

if TYPE_CHECKING:
    from collections.abc import Mapping

    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import Consolidation, Recipe
    from looper.platform.settings import Settings


def consolidate(
    instances: Annotated[list[str], typer.Argument(metavar="TENANT/INSTANCE...")],
    wait: Annotated[bool, typer.Option("--wait", help="Stay until each has its verdict.")] = False,
    strategy: Annotated[str | None, typer.Option(help="Against forgetting, such as replay(share=1)+ella.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, rslora, lora+, dora, adalora or qlora.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the examples.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences per optimiser step.")] = None,
    max_seq_length: Annotated[int | None, typer.Option(help="Tokens per sequence.")] = None,
    preference_weight: Annotated[
        float | None, typer.Option(help="Weight of the loss on pairs of turns; 0: unused.")
    ] = None,
    priority: Annotated[int, typer.Option(help="From -10 to 10; higher ones go before any lower one.")] = 0,
    json: Json = False,
) -> None:
    """Turn the new trajectories of instances into their next adapter versions. Without flags, settings decide.

    Example: `looper consolidate acme/helpdesk acme/billing --strategy replay --wait`
    """
    from looper.platform.api.models import ConsolidationInfo
    from looper.platform.api.submission import submit
    from looper.platform.catalog import Catalog
    from looper.platform.domain.names import InstanceName
    from looper.platform.settings import load_settings

    flags = {
        "strategy": strategy,
        "method": method,
        "rank": rank,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "max_seq_length": max_seq_length,
        "preference_weight": preference_weight,
    }
    names = [InstanceName.parse(instance) for instance in instances]
    settings = load_settings()
    recipe = _with_flags(settings.consolidation.recipe, flags)
    here = wait and not _cluster_is_up(settings)
    if here:
        needs.to_run("looper consolidate --wait")
    catalog = Catalog.open(settings)
    jobs = submit(catalog, settings, names, recipe, priority)
    if here:
        jobs = _work(catalog, settings, [job.id for job in jobs])
    elif wait:
        jobs = watch(catalog, [job.id for job in jobs], sys.stderr)
    if json:
        emit_json([ConsolidationInfo.of(job) for job in jobs])
    else:
        table(
            ["consolidation", "instance", "state", "digest", "why"],
            [(job.id, job.instance, job.state, job.digest and job.digest[:12], why(job)) for job in jobs],
            empty="",
        )
        if not wait and not _cluster_is_up(settings):
            typer.echo("queued, and nobody works the queue: looper up")
    exit_if_failed(jobs)


def _with_flags(recipe: "Recipe", flags: "Mapping[str, object]") -> "Recipe":
    from pydantic import ValidationError

    from looper.platform.domain.consolidation import Recipe
    from looper.platform.domain.errors import InvalidInput

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Recipe.model_validate(recipe.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InvalidInput(f"--{name} {first['input']}: {first['msg']}") from error


def _cluster_is_up(settings: "Settings") -> bool:
    from looper.cluster.state import read_state

    return read_state(settings) is not None


def _work(catalog: "Catalog", settings: "Settings", ids: list[str]) -> "list[Consolidation]":
    """Do the work in this process, as no cluster of this machine does it."""
    import threading
    from contextlib import ExitStack

    from looper.cluster.local_ray import local_ray
    from looper.cluster.run_until_complete import run_until_complete
    from looper.jobs.basemodel.prepare import prepare
    from looper.platform.objectstore import ObjectStore

    with ExitStack() as stack:
        with progress() as live:
            live.add_task("preparing the base model and a local Ray", total=None, note="")
            model_dir = prepare(settings.base, settings.models_dir)
            stack.enter_context(local_ray())
        done = threading.Event()
        watcher = threading.Thread(target=watch, args=(catalog, ids, sys.stderr), kwargs={"stop": done})
        watcher.start()
        try:
            run_until_complete(catalog, ObjectStore.open(settings), settings, model_dir, ids)
        finally:
            done.set()
            watcher.join()
    return [catalog.consolidation(id) for id in ids]
