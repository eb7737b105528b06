"""``looper plan``: what training many tenants on a base model takes of a GPU, reckoned without one."""

from typing import Annotated

import typer

from looper.cli import requirements
from looper.cli.output import Json, emit_json, fail, progress, table

GPUS = {
    "h200": (141, 989),
    "h100": (80, 989),
    "a100": (80, 312),
    "a100-40": (40, 312),
    "l40s": (48, 362),
    "l4": (24, 121),
}
"""Memory in GB and dense bfloat16 TFLOP/s, from NVIDIA's data sheets."""

UTILIZATION = 0.35
"""Share of the peak that training is assumed to reach."""


def plan(
    base: Annotated[
        str | None, typer.Argument(help="Base model, as the setting base has it. Default: the first of the settings.")
    ] = None,
    gpu: Annotated[str, typer.Option(help=f"One of {', '.join(GPUS)}.")] = "h100",
    tenants: Annotated[int, typer.Option(min=1, max=4096, help="Consolidations that are trained at once.")] = 16,
    rank: Annotated[int | None, typer.Option(min=1, max=512, help="LoRA rank. Default: that of the recipe.")] = None,
    json: Json = False,
) -> None:
    """Reckon the memory and the speed of training on a GPU, before there is one.

    Memory is counted by running a pass on tensors without content. Speed assumes 35 % of the GPU's peak.

    Example: `looper plan meta-llama/Llama-3.1-8B-Instruct --gpu h100 --tenants 64`
    """
    requirements.check_machine("looper plan")
    if gpu not in GPUS:
        fail(f"GPU {gpu!r} is not known: choose one of {', '.join(GPUS)}")

    import torch

    from looper.basemodel.prepare import prepare_base
    from looper.jobs.consolidation.model.device import GPU_TOKENS_PER_PASS, Device
    from looper.jobs.consolidation.model.memory_plan import USED_SHARE, choose_pass, plan_memory
    from looper.platform.adapters.base_revision import read_base_manifest
    from looper.platform.settings import load_for_base

    settings = load_for_base(base)
    recipe = settings.consolidation.recipe
    recipe = recipe if rank is None else recipe.model_copy(update={"rank": rank})
    memory_gb, tera = GPUS[gpu]
    device = Device(torch.device("cuda"), torch.bfloat16, GPU_TOKENS_PER_PASS, torch.bfloat16)
    with progress() as live:
        line = live.add_task("base model", total=None, note=f"{settings.base}: preparing it")
        folder = prepare_base(settings)
        live.update(line, note=f"{settings.base}: counting a pass")
        found = plan_memory(folder, recipe, device)
    parameters = read_base_manifest(folder).parameters
    recipe = recipe.resolve_learning_rate(parameters)
    usable = memory_gb * 1e9 * USED_SHARE
    choice = choose_pass(found, usable, tenants, GPU_TOKENS_PER_PASS)
    # A frozen base: 2 operations for each weight and token forward, again where activations are computed again, and 2
    # backward for the gradients of activations.
    operations = 6 if choice.recomputes else 4
    tokens_per_s = UTILIZATION * tera * 1e12 / (operations * parameters)
    if choice.tokens <= 0:
        most = max(0, int((usable - found.base) / found.tenant))
        fail(f"{tenants} tenants on {settings.base} do not fit on {gpu}: {most} would fill it without any pass")
    of_pass = found.peak(0, choice.tokens, choice.recomputes) - found.base
    result = {
        "base": settings.base,
        "gpu": gpu,
        "tenants": tenants,
        "rank": recipe.rank,
        "learning_rate": recipe.learning_rate,
        "usable_bytes": int(usable),
        "base_bytes": found.base,
        "tenant_bytes": found.tenant,
        "pass_bytes": int(of_pass),
        "tokens_per_pass": choice.tokens,
        "recomputes_activations": choice.recomputes,
        "tokens_per_s": int(tokens_per_s),
    }
    if json:
        emit_json(result)
        return
    rows = [
        ("usable memory", f"{usable / 2**30:.1f} GiB of {memory_gb} GB"),
        ("base model", f"{found.base / 2**30:.1f} GiB"),
        (f"{tenants} tenants of rank {recipe.rank}", f"{tenants * found.tenant / 2**30:.1f} GiB"),
        ("learning rate", f"{recipe.learning_rate:.2g}"),
        ("a pass", f"{choice.tokens} tokens, {of_pass / 2**30:.1f} GiB"),
        ("activations", "computed again in the backward pass" if choice.recomputes else "kept for the backward pass"),
        ("speed", f"about {tokens_per_s:,.0f} tokens/s for all tenants together"),
        ("an hour trains", f"about {tokens_per_s * 3600 / tenants:,.0f} tokens of each tenant"),
    ]
    table(("", f"{settings.base} on {gpu}"), rows, empty="")
