"""``looper consolidate``: submits consolidations, and works on them where no cluster runs."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, progress, table
from looper.cli.watch import exit_if_failed, reason_of, watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from looper.platform.catalog import Catalog
    from looper.platform.domain.consolidation import Consolidation
    from looper.platform.domain.recipe import Recipe
    from looper.platform.settings import Settings


def consolidate(
    instances: Annotated[list[str], typer.Argument(metavar="TENANT/INSTANCE...", help="Instances to consolidate.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every consolidation has ended.")] = False,
    strategy: Annotated[
        str | None, typer.Option(help="Strategy against forgetting, such as replay(share=1)+ella.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Training method: lora, rslora, lora+, dora, adalora or qlora.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the examples.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Maximum number of optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of sequences per optimizer step.")] = None,
    max_seq_length: Annotated[int | None, typer.Option(help="Maximum number of tokens per sequence.")] = None,
    preference_weight: Annotated[
        float | None, typer.Option(help="Weight of the preference loss; 0 turns it off.")
    ] = None,
    priority: Annotated[int, typer.Option(help="From -10 to 10. Higher priorities are claimed first.")] = 0,
    json: Json = False,
) -> None:
    """Train the next adapter version of instances from their new trajectories. Flags override the settings' recipe.

    An instance that has nothing new, or does not exist, is reported with exit status 1, and the others are queued.

    Example: `looper consolidate acme/helpdesk acme/billing --strategy replay --wait`
    """
    from looper.platform.api.models import ConsolidationInfo
    from looper.platform.api.submission import submit_consolidations
    from looper.platform.catalog import Catalog
    from looper.platform.domain.errors import InvalidInput, NotFound
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
    run_here = wait and not _is_cluster_running(settings)
    if run_here:
        requirements.check_machine("looper consolidate --wait")
    catalog = Catalog.open(settings)
    settings.check_recipe(recipe)
    jobs: list[Consolidation] = []
    refusals: list[str] = []
    for name in dict.fromkeys(names):
        try:
            jobs += submit_consolidations(catalog, settings, [name], recipe, priority)
        except (InvalidInput, NotFound) as error:
            if len(names) == 1:
                raise
            refusals.append(str(error))
    if run_here and jobs:
        jobs = _run_here(catalog, settings, [job.id for job in jobs])
    elif wait:
        jobs = watch(catalog, [job.id for job in jobs], sys.stderr)
    if json:
        emit_json([ConsolidationInfo.from_consolidation(job) for job in jobs])
    else:
        table(
            ["consolidation", "instance", "state", "digest", "reason"],
            [(job.id, job.instance, job.state, job.digest and job.digest[:12], reason_of(job)) for job in jobs],
            empty="nothing was queued",
        )
        if jobs and not wait and not _is_cluster_running(settings):
            typer.echo("queued, but no cluster is running to work on it: looper up")
    for refusal in refusals:
        typer.echo(f"error: {refusal}", err=True)
    if refusals:
        raise typer.Exit(1)
    exit_if_failed(jobs)


def _with_flags(recipe: "Recipe", flags: "Mapping[str, object]") -> "Recipe":
    from pydantic import ValidationError

    from looper.platform.domain.errors import InvalidInput
    from looper.platform.domain.recipe import Recipe

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Recipe.model_validate(recipe.model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InvalidInput(f"--{name} {first['input']}: {first['msg']}") from error


def _is_cluster_running(settings: "Settings") -> bool:
    from looper.cluster.state import read_state

    return read_state(settings) is not None


def _run_here(catalog: "Catalog", settings: "Settings", ids: list[str]) -> "list[Consolidation]":
    """Work the queue in this process, because no cluster runs on this machine. Return the ended consolidations."""
    import threading
    from contextlib import ExitStack

    from looper.basemodel.prepare import prepare_base
    from looper.cluster.local_ray import local_ray
    from looper.cluster.run_until_complete import run_until_complete
    from looper.platform.objectstore import ObjectStore

    with ExitStack() as stack:
        with progress() as live:
            live.add_task("preparing the base model and a local Ray", total=None, note="")
            model_dir = prepare_base(settings)
            stack.enter_context(local_ray())
        ended = threading.Event()
        watcher = threading.Thread(target=watch, args=(catalog, ids, sys.stderr), kwargs={"stop": ended})
        watcher.start()
        try:
            run_until_complete(catalog, ObjectStore.open(settings), settings, model_dir, ids)
        finally:
            ended.set()
            watcher.join()
    return [catalog.get_consolidation(id) for id in ids]
