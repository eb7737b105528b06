"""A language model small enough to work out by hand, and the sessions of an instance that learns on it.

The logits after token t are column t of the update, summed over layers: a bigram model that is nothing but its adapter.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.strategy import Importance, Strategy, StrategyContext, StrategyState

VOCABULARY = 4
LAYERS = ("down", "up")


def window(*tokens: int) -> Window:
    """The last token is the target."""
    return Window.of(tokens, (0.0,) * (len(tokens) - 1) + (1.0,), ((len(tokens) - 1, len(tokens)),))


def factors(b: Sequence[Sequence[float]], a: Sequence[Sequence[float]], scale: float = 1.0) -> Factors:
    return Factors(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32), scale)


def random_lora(seed: int, rank: int = 2, scale: float = 1.0) -> dict[str, Factors]:
    draws = torch.Generator().manual_seed(seed)
    return {
        layer: Factors(
            torch.randn(rank, VOCABULARY, generator=draws), torch.randn(VOCABULARY, rank, generator=draws), scale
        )
        for layer in LAYERS
    }


def zero_lora(seed: int, rank: int = 2) -> dict[str, Factors]:
    return {layer: Factors(of.a, torch.zeros_like(of.b)) for layer, of in random_lora(seed, rank).items()}


def parameters(lora: Lora) -> dict[str, Factors]:
    """``lora`` in training."""
    return {
        layer: Factors(nn.Parameter(of.a.detach().clone()), nn.Parameter(of.b.detach().clone()), of.scale)
        for layer, of in lora.items()
    }


def _logits(updates: Mapping[str, Tensor], windows: Sequence[Window]) -> Tensor:
    total = torch.stack(list(updates.values())).sum(0)
    return torch.stack([total[:, window.tokens[-2]] for window in windows])


def _loss(updates: Mapping[str, Tensor], windows: Sequence[Window]) -> Tensor:
    return cross_entropy(_logits(updates, windows), torch.tensor([int(window.tokens[-1]) for window in windows]))


def logits(lora: Lora, windows: Sequence[Window]) -> Tensor:
    return _logits({layer: of.update() for layer, of in lora.items()}, windows)


def losses(lora: Lora, windows: Sequence[Window]) -> list[float]:
    updates = {layer: of.update().detach() for layer, of in lora.items()}
    return [float(_loss(updates, [window])) for window in windows]


def importance(lora: Lora, windows: Sequence[Window]) -> dict[str, Importance]:
    updates = {layer: of.update().detach().requires_grad_() for layer, of in lora.items()}
    squares = {layer: torch.zeros_like(update) for layer, update in updates.items()}
    for window in windows:
        gradients = torch.autograd.grad(_loss(updates, [window]), list(updates.values()))
        for layer, gradient in zip(updates, gradients, strict=True):
            squares[layer] += gradient**2 / len(windows)
    return {layer: Importance(square.mean(1), square.mean(0)) for layer, square in squares.items()}


def factor_importance(lora: Lora, windows: Sequence[Window]) -> dict[str, Factors]:
    trained = parameters(lora)
    squares = {layer: Factors(torch.zeros_like(of.a), torch.zeros_like(of.b)) for layer, of in trained.items()}
    for window in windows:
        for layer, of in trained.items():
            loss = _loss({name: each.update() for name, each in trained.items()}, [window])
            a, b = torch.autograd.grad(loss, (of.a, of.b))
            squares[layer].a.add_(a**2 / len(windows))
            squares[layer].b.add_(b**2 / len(windows))
    return squares


def session(
    lora: Lora,
    start: Lora | None = None,
    windows: Sequence[Window] = (window(0, 1), window(2, 3)),
    seed: int = 0,
    losses: Callable[[Lora, Sequence[Window]], list[float]] = losses,
) -> StrategyContext:
    return StrategyContext(
        lora=lora,
        start=start,
        windows=windows,
        steps=4,
        seed=seed,
        importance=importance,
        factor_importance=factor_importance,
        losses=losses,
        logits=logits,
    )


def step(strategy: Strategy, session: StrategyContext, windows: Sequence[Window]) -> None:
    """One step of plain gradient descent, as the trainer calls the strategy."""
    beside = strategy.frozen_lora()
    whole = session.lora if beside is None else stack_adapters(beside, session.lora)
    loss = _loss({layer: of.update() for layer, of in whole.items()}, windows)
    trained = [tensor for of in session.lora.values() for tensor in (of.a, of.b)] + strategy.parameters()
    gradients = list(torch.autograd.grad(loss, trained))  # a graph of its own: the penalty's comes after
    penalty = strategy.penalty()
    if penalty is not None:
        for i, more in enumerate(torch.autograd.grad(1e-4 * penalty, trained, allow_unused=True)):
            gradients[i] = gradients[i] if more is None else gradients[i] + more
    with torch.no_grad():
        for tensor, gradient in zip(trained, gradients, strict=True):
            tensor -= 0.1 * gradient
    strategy.after_step(loss.item())


def stored(state: StrategyState) -> StrategyState:
    """``state`` after a way through the store."""
    return load(save(state))


def opened(
    strategy: Strategy, start: Lora | None, windows: Sequence[Window], past: StrategyState, seed: int = 0
) -> StrategyContext:
    """The session, begun: with the start's values, or an update of zero where there are none or the strategy grows."""
    fresh = start is None or strategy.grows
    begun = session(parameters(zero_lora(seed) if fresh or start is None else start), start, windows, seed)
    strategy.begin(begun, past)
    return begun


def live(
    strategy: Strategy, start: Lora | None, windows: Sequence[Window], past: StrategyState, steps: int = 4
) -> tuple[Lora, StrategyState]:
    """A whole session: what it publishes, and what it remembers."""
    begun = opened(strategy, start, windows, past)
    together = [*windows, *strategy.windows()]
    for _ in range(steps):
        step(strategy, begun, together)
    published = {layer: of.copy() for layer, of in strategy.finish(copied(begun.lora)).items()}
    return published, stored(strategy.remember(published))


def copied(lora: Lora) -> dict[str, Factors]:
    return {layer: of.copy() for layer, of in lora.items()}
