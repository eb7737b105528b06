"""How many tokens a pass of a trainer has: on a GPU, as many as its free memory holds."""

import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.memory_plan import fit_pass, plan_memory
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.settings import ConsolidationSettings


def fit_pass_to_memory(base: SharedBase, settings: ConsolidationSettings) -> None:
    """Set the tokens of a pass by the free memory of the GPUs of all workers. On a CPU, they stay as they are.

    Args:
        base: The base model, loaded.
        settings: Give the number of tenants, and the recipe that they have by default.
    """
    if base.device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(base.device)
    plan = plan_memory(base.folder, settings.recipe, base.number_formats)
    tokens = torch.tensor(fit_pass(plan, free, settings.cohort_size, base.max_tokens_per_pass), device=base.device)
    if dist.get_world_size() > 1:  # all workers divide the same passes
        dist.all_reduce(tokens, op=dist.ReduceOp.MIN)
    base.max_tokens_per_pass = int(tokens)
