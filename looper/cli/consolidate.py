"""``looper consolidate`` and ``move``: submit consolidations, and work on them where no cluster runs."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from looper.cli.output import Json, emit_json, table
from looper.cli.watch import exit_if_failed, reason_of, state_of, watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from looper.cli.control_plane.interface import ControlPlane, LocalWorker
    from looper.platform.api.models import ConsolidationInfo
    from looper.platform.domain.recipe import Recipe


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
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate. Default: chosen for the size of the base model.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the examples.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Maximum number of optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of sequences per optimizer step.")] = None,
    max_seq_length: Annotated[int | None, typer.Option(help="Maximum number of tokens per sequence.")] = None,
    preference_weight: Annotated[
        float | None, typer.Option(help="Weight of the preference loss; 0 turns it off.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Start from which an instance's first training begins: looper starts list.")
    ] = None,
    priority: Annotated[int, typer.Option(help="From -10 to 10. Higher priorities are claimed first.")] = 0,
    json: Json = False,
) -> None:
    """Train the next adapter version of instances from their new trajectories. Flags override the settings' recipe.

    An instance that has nothing new, or does not exist, is reported with exit status 1, and the others are queued.

    Example: `looper consolidate acme/helpdesk acme/billing --strategy replay --wait`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.errors import InvalidInput, NotFound
    from looper.platform.domain.names import InstanceName

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
        "start": start,
    }
    names = [InstanceName.parse(instance) for instance in instances]
    control_plane = open_control_plane()
    recipe = _with_flags(control_plane.default_recipe(), flags)
    worker = control_plane.queue_worker()
    if wait and worker:
        worker.check()
    control_plane.check_recipe(recipe)
    jobs: list[ConsolidationInfo] = []
    refusals: list[str] = []
    for name in dict.fromkeys(names):
        try:
            jobs.append(control_plane.submit(name, recipe, priority))
        except (InvalidInput, NotFound) as error:
            if len(names) == 1:
                raise
            refusals.append(str(error))
    jobs = follow(control_plane, worker, jobs, wait=wait, json=json)
    for refusal in refusals:
        typer.echo(f"error: {refusal}", err=True)
    if refusals:
        raise typer.Exit(1)
    exit_if_failed(jobs)


def move(
    instance: Annotated[str, typer.Argument(metavar="TENANT/INSTANCE", help="Instance to move.")],
    base: Annotated[str, typer.Option(help="Base model of the cluster, as its settings name it.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the consolidation has ended.")] = False,
    priority: Annotated[int, typer.Option(help="From -10 to 10. Higher priorities are claimed first.")] = 0,
    json: Json = False,
) -> None:
    """Move an instance to another base model of the cluster, by a consolidation of its whole history there.

    The version before serves until the new one has passed the gate. `looper skills rollback` moves the instance back.

    Example: `looper move acme/helpdesk --base Qwen/Qwen3-8B --wait`
    """
    from looper.cli.control_plane import open_control_plane
    from looper.platform.domain.names import InstanceName

    name, control_plane = InstanceName.parse(instance), open_control_plane()
    worker = control_plane.queue_worker()
    if wait and worker:
        worker.check()
    job = control_plane.move(name, base, priority)
    exit_if_failed(follow(control_plane, worker, [job], wait=wait, json=json))


def follow(
    control_plane: "ControlPlane",
    worker: "LocalWorker | None",
    jobs: "list[ConsolidationInfo]",
    *,
    wait: bool,
    json: bool,
) -> "list[ConsolidationInfo]":
    """Print consolidations that were just submitted, and wait for them before if the user asked for that.

    Args:
        control_plane: Where they were submitted.
        worker: What can work on them in this process, if nobody else does.
        jobs: The consolidations.
        wait: Whether to wait until they have ended.
        json: Whether to print JSON.

    Returns:
        The consolidations as they are now.
    """
    ids = [job.id for job in jobs]
    if wait and worker and jobs:
        worker.run(ids)
        jobs = control_plane.get_consolidations(ids)
    elif wait:
        jobs = watch(control_plane, ids, sys.stderr)
    if json:
        emit_json(jobs)
        return jobs
    table(
        ["consolidation", "instance", "state", "digest", "reason"],
        [(job.id, job.instance, state_of(job), job.digest and job.digest[:12], reason_of(job)) for job in jobs],
        empty="nothing was queued",
    )
    if jobs and not wait and worker:
        typer.echo("queued, but no cluster is running to work on it: looper up")
    return jobs


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
