"""How a trainer runs passes: on a GPU, as many tokens as its free memory holds, and what is computed again for that."""

import logging

import torch
import torch.distributed as dist

from looper.jobs.consolidation.model.memory_plan import MIN_TOKENS, USED_SHARE, choose_pass, plan_memory
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.settings import ConsolidationSettings

log = logging.getLogger(__name__)


def fit_pass_to_memory(base: SharedBase, settings: ConsolidationSettings) -> None:
    """Set how passes are run by the free memory of the GPUs of all workers. On a CPU, all stays as it is.

    A pass has at least ``MIN_TOKENS``, even if they do not fit: what does not fit is halved when it comes to that.

    Args:
        base: The base model, loaded.
        settings: Give the number of tenants, and the recipe that they have by default.
    """
    if base.device.type != "cuda":
        return
    free = torch.tensor(torch.cuda.mem_get_info(base.device)[0], device=base.device)
    if dist.get_world_size() > 1:  # all workers divide the same passes, and run the same layers
        dist.all_reduce(free, op=dist.ReduceOp.MIN)
    plan = plan_memory(base.folder, settings.recipe, base.number_formats)
    memory = plan.base + int(free) * USED_SHARE  # the base model is there already
    choice = choose_pass(plan, memory, settings.cohort_size, base.max_tokens_per_pass)
    base.max_tokens_per_pass = max(MIN_TOKENS, choice.tokens)
    base.recomputes = choice.recomputes
    log.info(
        "passes of %d tokens, whose activations are %s",
        base.max_tokens_per_pass,
        "computed again" if base.recomputes else "kept",
    )
