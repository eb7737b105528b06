"""One optimiser step of several tenants in shared forward and backward passes over the frozen base."""

from collections import deque
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


class Step:
    """One optimiser step of several tenants, a pass over the base at a time.

    Each loss is normalised by the tenant's own weights and differentiated in its own parameters only, so that what one
    tenant's tokens hold, NaN included, cannot reach another.
    """

    def __init__(self, base: SharedBase, tenants: Sequence[Tenant]) -> None:
        batches = [tenant.batch() for tenant in tenants]
        self._base = base
        self._tenants = tenants
        self._parts = deque(divide(batches, base.tokens_at_once * dist.get_world_size()))
        self._totals = [sum(sum(window.weights) for window in batch) for batch in batches]
        self._losses = torch.zeros(len(tenants), device=base.device)
        self._gradients = [[torch.zeros_like(parameter) for parameter in tenant.trained] for tenant in tenants]

    def advance(self) -> bool:
        """Do the next pass; return whether there is another."""
        part, world, rank = self._parts.popleft(), dist.get_world_size(), dist.get_rank()
        mine = {owner: windows[rank::world] for owner, windows in part.items() if windows[rank::world]}
        if mine:
            _add(self._base, self._tenants, mine, self._totals, self._losses, self._gradients)
        elif self._base.sharded:  # the others need this worker's part of the base
            ((owner, windows),) = list(part.items())[:1]
            _pass(self._base, self._tenants, {owner: windows[:1]}, self._totals)
        return bool(self._parts)

    def results(self) -> list[tuple[float, list[Tensor]]]:
        """After all passes, of each tenant: its weighted mean loss over all workers, and this worker's gradients."""
        if dist.get_world_size() > 1:
            dist.all_reduce(self._losses)
        return list(zip(self._losses.tolist(), self._gradients, strict=True))


def losses_and_gradients(base: SharedBase, tenants: Sequence[Tenant]) -> list[tuple[float, list[Tensor]]]:
    """The results of the next step of ``tenants``, without a pause between its passes."""
    step = Step(base, tenants)
    while step.advance():
        pass
    return step.results()


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
