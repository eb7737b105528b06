"""One optimiser step of several tenants in shared forward and backward passes over the frozen base."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from looper.jobs.consolidation.encode import Window
from looper.jobs.consolidation.pack import divide, packed_size
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.consolidation.tenant import Tenant


def next_together(tenants: Sequence[Tenant], tokens: int) -> list[Tenant]:
    """The first of ``tenants``, as many as fill one pass of ``tokens`` with their next batches; at least one."""
    taken: list[Tenant] = []
    size = 0
    for tenant in tenants:
        more = packed_size(tenant.batch())
        if taken and size + more > tokens:
            break
        taken.append(tenant)
        size += more
    return taken


def losses_and_gradients(base: SharedBase, tenants: Sequence[Tenant]) -> list[tuple[float, list[Tensor]]]:
    """Of each tenant's next batch: its weighted mean loss over all workers, and this worker's part of the gradients.

    Each loss is normalised by the tenant's own weights and differentiated in its own parameters only, so that what one
    tenant's tokens hold, NaN included, cannot reach another.
    """
    batches = [tenant.batch() for tenant in tenants]
    totals = [sum(sum(window.weights) for window in batch) for batch in batches]
    losses = torch.zeros(len(tenants), device=base.device)
    gradients = [[torch.zeros_like(parameter) for parameter in tenant.trained] for tenant in tenants]
    world, rank = dist.get_world_size(), dist.get_rank()
    for part in divide(batches, base.tokens_at_once * world):
        mine = {owner: windows[rank::world] for owner, windows in part.items() if windows[rank::world]}
        if mine:
            _add(base, tenants, mine, totals, losses, gradients)
        elif base.sharded:  # the others need this worker's part of the base
            ((owner, windows),) = list(part.items())[:1]
            _pass(base, tenants, {owner: windows[:1]}, totals)
    if world > 1:
        dist.all_reduce(losses)
    return list(zip(losses.tolist(), gradients, strict=True))


def _add(
    base: SharedBase,
    tenants: Sequence[Tenant],
    part: dict[int, list[Window]],
    totals: Sequence[float],
    losses: Tensor,
    gradients: Sequence[Sequence[Tensor]],
) -> None:
    """Add the losses and gradients of ``part``, which is this worker's."""
    shares, found = _pass(base, tenants, part, totals)
    sums = [total for owner in part for total in gradients[owner]]
    torch._foreach_add_(sums, found)
    for owner, share in zip(part, shares, strict=True):
        losses[owner] += share


def _pass(
    base: SharedBase, tenants: Sequence[Tenant], part: dict[int, list[Window]], totals: Sequence[float]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Of each owner in ``part``, what its windows add to its loss; and the gradients of what each has trained."""
    packed = base.pack(list(part.values()))
    weighted = base.losses(packed, [tenants[owner].acting for owner in part]) * packed.weights
    shares = [
        each.sum() / totals[owner]
        for owner, each in zip(part, torch.split(weighted, list(packed.owner_targets)), strict=True)
    ]
    trained = [parameter for owner in part for parameter in tenants[owner].trained]
    found = torch.autograd.grad(torch.stack(shares).sum(), trained, materialize_grads=True)
    return [share.detach() for share in shares], found
