"""One optimiser step of several tenants in shared forward and backward passes over the frozen base."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.distributed as dist
from torch import Tensor

from looper.jobs.consolidation.data.encode import Window
from looper.jobs.consolidation.data.packing import divide, packed_size
from looper.jobs.consolidation.data.preference import Contrast
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.member import TrainingMember


def next_together(tenants: Sequence[TrainingMember], tokens: int) -> list[TrainingMember]:
    """The first of ``tenants``, as many as fill one pass of ``tokens`` with their next batches; at least one."""
    taken: list[TrainingMember] = []
    size = 0
    for tenant in tenants:
        more = packed_size(tenant.batch()) + sum(packed_size(pair.windows) for pair in tenant.pairs())
        if taken and size + more > tokens:
            break
        taken.append(tenant)
        size += more
    return taken


@dataclass(frozen=True)
class _LossTerm:
    """What a tenant minimises over its batch, or over one of its pairs."""

    tenant: int
    total: float
    """What it is divided by."""
    pair: Contrast | None = None

    def share(self, weighted: Tensor) -> Tensor:
        """Given the weighted losses of its targets; those of a batch may be a part of them."""
        value = weighted.sum() if self.pair is None else self.pair.loss(weighted)
        return value / self.total


class FusedStep:
    """One optimiser step of several tenants, a pass over the base at a time.

    Each loss is normalised by the tenant's own weights and differentiated in its own parameters only, so that what one
    tenant's tokens hold, NaN included, cannot reach another. A pair is packed as an owner of its own: its two windows
    share far more than the beginning that all of a tenant's have in common.
    """

    def __init__(self, base: SharedBase, tenants: Sequence[TrainingMember]) -> None:
        batches = [tenant.batch() for tenant in tenants]
        pairs = [tenant.pairs() for tenant in tenants]
        self._base = base
        self._tenants = tenants
        self._terms = [
            *(_LossTerm(i, sum(sum(window.weights) for window in batch)) for i, batch in enumerate(batches)),
            *(
                _LossTerm(i, len(each) / tenants[i].recipe.preference_weight, pair)
                for i, each in enumerate(pairs)
                for pair in each
            ),
        ]
        uncut = [pair.windows for each in pairs for pair in each]
        self._parts = deque(divide(batches, base.tokens_at_once * dist.get_world_size(), uncut))
        self._losses = torch.zeros(len(tenants), device=base.device)
        self._gradients = [[torch.zeros_like(parameter) for parameter in tenant.trained] for tenant in tenants]

    def advance(self) -> bool:
        """Do the next pass; return whether there is another."""
        part = self._parts.popleft()
        mine = self._mine(part)
        if mine:
            self._add(mine)
        elif self._base.sharded:  # the others need this worker's part of the base
            self._pass(dict([next(iter(part.items()))]))
        return bool(self._parts)

    def results(self) -> list[tuple[float, list[Tensor]]]:
        """After all passes, of each tenant: its weighted mean loss over all workers, and this worker's gradients.

        The gradients are those of the mean loss and of the preference loss on its pairs; the loss is without that.
        """
        if dist.get_world_size() > 1:
            dist.all_reduce(self._losses)
        return list(zip(self._losses.tolist(), self._gradients, strict=True))

    def _mine(self, part: Mapping[int, list[Window]]) -> dict[int, list[Window]]:
        """Of ``part``, this worker's: some windows of each batch, and whole pairs."""
        world, rank = dist.get_world_size(), dist.get_rank()
        turns = cycle(reversed(range(world)))  # what is left over of batches goes to the first workers
        mine: dict[int, list[Window]] = {}
        for number, windows in part.items():
            if self._terms[number].pair is None:
                mine[number] = windows[rank::world]
            else:
                mine[number] = windows if next(turns) == rank else []
        return {number: windows for number, windows in mine.items() if windows}

    def _add(self, part: Mapping[int, list[Window]]) -> None:
        """Add the losses and gradients of ``part``, which is this worker's."""
        shares, found = self._pass(part)
        sums = [total for tenant in self._among(part) for total in self._gradients[tenant]]
        torch._foreach_add_(sums, found)
        for number, share in zip(part, shares, strict=True):
            term = self._terms[number]
            if term.pair is None:
                self._losses[term.tenant] += share

    def _pass(self, part: Mapping[int, list[Window]]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """What the windows of each term in ``part`` add to it; and the gradients of what each tenant has trained."""
        terms = [self._terms[number] for number in part]
        acting = {tenant: self._tenants[tenant].acting for tenant in self._among(part)}
        packed = self._base.pack(list(part.values()))
        weighted = self._base.losses(packed, [acting[term.tenant] for term in terms]) * packed.weights
        pieces = torch.split(weighted, list(packed.owner_targets))
        shares = [term.share(each) for term, each in zip(terms, pieces, strict=True)]
        trained = [parameter for tenant in acting for parameter in self._tenants[tenant].trained]
        found = torch.autograd.grad(torch.stack(shares).sum(), trained, materialize_grads=True)
        return [share.detach() for share in shares], found

    def _among(self, part: Mapping[int, list[Window]]) -> list[int]:
        """The tenants in ``part``, in the order of their first terms."""
        return list(dict.fromkeys(self._terms[number].tenant for number in part))


def losses_and_gradients(base: SharedBase, tenants: Sequence[TrainingMember]) -> list[tuple[float, list[Tensor]]]:
    """The results of the next step of ``tenants``, without a pause between its passes."""
    step = FusedStep(base, tenants)
    while step.advance():
        pass
    return step.results()
