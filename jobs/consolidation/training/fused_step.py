"""One optimizer step of several sessions, in shared forward and backward passes over the frozen base model.

The cohort starts a ``FusedStep``, the trainer runs its passes, and then each session takes its step with its own loss
and gradients.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from looper.jobs.consolidation.data.balance import divide_over_workers
from looper.jobs.consolidation.data.packing import packed_size, split_into_passes
from looper.jobs.consolidation.data.preference import PairWindows
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.session import TrainingSession

log = logging.getLogger(__name__)


def select_for_one_pass(sessions: Sequence[TrainingSession], max_tokens: int) -> list[TrainingSession]:
    """Select the first sessions whose next batches fit together into one pass.

    Args:
        sessions: Sessions in the order of their turn.
        max_tokens: Tokens of a pass.

    Returns:
        The first sessions. At least one, however long its batch is.
    """
    selected: list[TrainingSession] = []
    tokens = 0
    for session in sessions:
        more = tokens_of_step(session)
        if selected and tokens + more > max_tokens:
            break
        selected.append(session)
        tokens += more
    return selected


def tokens_of_step(session: TrainingSession) -> int:
    """Return how many packed tokens the next step of ``session`` has."""
    return packed_size(session.next_batch()) + sum(packed_size(pair.windows) for pair in session.next_pairs())


@dataclass(frozen=True)
class _LossTerm:
    """What a session minimizes over its batch, or over one of its preference pairs."""

    session: int
    """Index of the session in the step."""
    normalizer: float
    """The loss is divided by it."""
    pair: PairWindows | None = None
    """The pair, or None for the batch."""

    def value(self, weighted_losses: Tensor) -> Tensor:
        """Return the loss, a scalar, given the weighted losses ``[m]`` of its targets, or of a part of a batch."""
        value = weighted_losses.sum() if self.pair is None else self.pair.loss(weighted_losses)
        return value / self.normalizer


class FusedStep:
    """One optimizer step of several sessions, computed one pass over the base model at a time.

    Each loss is normalized by the session's own weights and differentiated in the session's own parameters only. So the
    tokens of one session, NaN included, cannot affect another one. A preference pair is packed as an owner of its own,
    because its two windows share much more than the prefix that all windows of a session have in common.
    """

    def __init__(self, base: SharedBase, sessions: Sequence[TrainingSession]) -> None:
        """Divide the next batches and pairs of the sessions into passes.

        Args:
            base: The base model of all sessions.
            sessions: Sessions that take this step.
        """
        batches = [session.next_batch() for session in sessions]
        pairs = [session.next_pairs() for session in sessions]
        self._base = base
        self._sessions = sessions
        self._terms = [
            *(_LossTerm(i, sum(window.total_weight for window in batch)) for i, batch in enumerate(batches)),
            *(
                _LossTerm(i, len(of_session) / sessions[i].recipe.preference_weight, pair)
                for i, of_session in enumerate(pairs)
                for pair in of_session
            ),
        ]
        undivided = [pair.windows for of_session in pairs for pair in of_session]
        self._parts = deque(split_into_passes(batches, base.max_tokens_per_pass * dist.get_world_size(), undivided))
        self._losses = torch.zeros(len(sessions), device=base.device)
        self._gradients = [[torch.zeros_like(parameter) for parameter in session.trainable] for session in sessions]

    def run_pass(self) -> bool:
        """Run the next forward and backward pass.

        Returns:
            Whether there is another pass.
        """
        part = self._parts.popleft()
        own = self._select_own(part)
        if own:
            self._accumulate(own)
        elif self._base.is_sharded:  # the other workers need this worker's part of the base model
            self._forward_backward(dict([next(iter(part.items()))]))
        return bool(self._parts)

    def results(self) -> list[tuple[float, list[Tensor]]]:
        """Return loss and gradients of each session after all passes.

        Returns:
            For each session: the weighted mean loss over all workers, in nats per target token and without the
            preference loss; and this worker's gradients of ``trainable``, including those of the preference loss. The
            loss is NaN on all workers if a gradient is not finite on one of them.
        """
        for index, gradients in enumerate(self._gradients):  # times 0: 0, or NaN if one is not finite
            self._losses[index] += torch.stack(torch._foreach_norm(gradients)).sum() * 0
        if dist.get_world_size() > 1:
            dist.all_reduce(self._losses)
        return list(zip(self._losses.tolist(), self._gradients, strict=True))

    def _select_own(self, part: Mapping[int, list[Window]]) -> dict[int, list[Window]]:
        """Select what this worker computes of ``part``."""
        return divide_over_workers(part, self._pairs_in(part), dist.get_world_size())[dist.get_rank()]

    def _accumulate(self, part: Mapping[int, list[Window]]) -> None:
        """Add the losses and gradients of ``part``, which is this worker's.

        If they do not fit into the device's memory, compute them in two passes, and all later ones within that size. A
        sharded base cannot: its workers must run the same number of passes.
        """
        size = sum(map(packed_size, part.values()))
        if size > self._base.fitting_tokens and (pieces := self._halve(part)):
            for piece in pieces:
                self._accumulate(piece)
            return
        computed = self._forward_backward_if_it_fits(part)
        if computed is None:
            log.warning("a pass of %d tokens does not fit into the device's memory: halved from now on", size)
            self._base.fitting_tokens = size // 2
            self._accumulate(part)
            return
        values, gradients = computed
        totals = [total for session in self._sessions_in(part) for total in self._gradients[session]]
        torch._foreach_add_(totals, gradients)
        for index, value in zip(part, values, strict=True):
            term = self._terms[index]
            if term.pair is None:
                self._losses[term.session] += value

    def _halve(self, part: Mapping[int, list[Window]]) -> list[dict[int, list[Window]]] | None:
        """Divide ``part`` into two passes of about the same size. None, if it is one window or one pair."""
        pieces = [piece for piece in divide_over_workers(part, self._pairs_in(part), 2) if piece]
        return pieces if len(pieces) == 2 else None

    def _forward_backward_if_it_fits(
        self, part: Mapping[int, list[Window]]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]] | None:
        """Return None, if the device's memory is full and ``part`` can be halved."""
        try:
            return self._forward_backward(part)
        except torch.OutOfMemoryError:
            if self._base.is_sharded or not self._halve(part):
                raise
        return None  # after the handler, so that the traceback no longer holds the tensors of the pass

    def _pairs_in(self, part: Mapping[int, list[Window]]) -> set[int]:
        return {term for term in part if self._terms[term].pair is not None}

    def _forward_backward(self, part: Mapping[int, list[Window]]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return what ``part`` contributes to each of its terms, and the gradients of its sessions' parameters."""
        terms = [self._terms[index] for index in part]
        adapters = {session: self._sessions[session].active_adapter for session in self._sessions_in(part)}
        packed = self._base.pack(list(part.values()))
        weighted = self._base.losses(packed, [adapters[term.session] for term in terms]) * packed.weights
        by_term = torch.split(weighted, list(packed.owner_targets))
        values = [term.value(losses) for term, losses in zip(terms, by_term, strict=True)]
        trainable = [parameter for session in adapters for parameter in self._sessions[session].trainable]
        gradients = torch.autograd.grad(torch.stack(values).sum(), trainable, materialize_grads=True)
        return [value.detach() for value in values], gradients

    def _sessions_in(self, part: Mapping[int, list[Window]]) -> list[int]:
        """Return the indices of the sessions in ``part``, in the order of their first terms."""
        return list(dict.fromkeys(self._terms[index].session for index in part))


def compute_losses_and_gradients(
    base: SharedBase, sessions: Sequence[TrainingSession]
) -> list[tuple[float, list[Tensor]]]:
    """Run the next step of ``sessions`` on ``base`` without a pause between passes.

    Args:
        base: The base model of all sessions.
        sessions: Sessions that take the step.

    Returns:
        What ``FusedStep.results`` returns.
    """
    step = FusedStep(base, sessions)
    while step.run_pass():
        pass
    return step.results()
