"""All strategies by name, and how a recipe's ``strategy`` text becomes a strategy.

To add a strategy, add its name to ``StrategyName`` in ``platform/domain/strategy.py`` and its class to ``STRATEGIES``.
"""

from collections.abc import Callable
from inspect import signature

from pydantic import ValidationError

from looper.jobs.consolidation.strategies.am_lora import AmLora
from looper.jobs.consolidation.strategies.combined import Combined
from looper.jobs.consolidation.strategies.distill import Distill
from looper.jobs.consolidation.strategies.ella import Ella
from looper.jobs.consolidation.strategies.ewc import Ewc, OnlineEwc, OnlineEwcFactors
from looper.jobs.consolidation.strategies.i_lora import ILora
from looper.jobs.consolidation.strategies.merge import Merge
from looper.jobs.consolidation.strategies.o_lora import OLora
from looper.jobs.consolidation.strategies.online_lora import OnlineLora
from looper.jobs.consolidation.strategies.progressive import Progressive
from looper.jobs.consolidation.strategies.replay import LossReplay, Replay
from looper.jobs.consolidation.strategies.slao import Slao
from looper.jobs.consolidation.strategies.strategy import Strategy
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.strategy import StrategyName, StrategyTerm, parse_strategy

STRATEGIES: dict[str, type[Strategy]] = {
    StrategyName.NONE: Strategy,
    StrategyName.REPLAY: Replay,
    StrategyName.REPLAY_LOSS: LossReplay,
    StrategyName.EWC: Ewc,
    StrategyName.ONLINE_EWC: OnlineEwc,
    StrategyName.ONLINE_EWC_FACTORS: OnlineEwcFactors,
    StrategyName.O_LORA: OLora,
    StrategyName.I_LORA: ILora,
    StrategyName.ONLINE_LORA: OnlineLora,
    StrategyName.PROGRESSIVE: Progressive,
    StrategyName.AM_LORA: AmLora,
    StrategyName.ELLA: Ella,
    StrategyName.DISTILL: Distill,
    StrategyName.MERGE: Merge,
    StrategyName.SLAO: Slao,
}

ANY_METHOD = (StrategyName.NONE, StrategyName.REPLAY, StrategyName.REPLAY_LOSS, StrategyName.MERGE)
"""Strategies that go with every method. All others read or change the LoRA factors themselves during training."""

OWN_FACTORS = ("lora", "rslora", "lora+", "qlora")
"""Methods that train the LoRA factors themselves."""


def check_method(text: str, method: str) -> None:
    """Check that a combination of strategies goes with a training method.

    Args:
        text: A recipe's ``strategy``, such as ``replay(share=1)+ella``.
        method: The recipe's ``method``, such as ``lora``.

    Raises:
        InvalidInput: If one of the strategies does not go with ``method``.
    """
    if method in OWN_FACTORS:
        return
    for term in parse_strategy(text):
        if term.name not in ANY_METHOD:
            raise InvalidInput(
                f"strategy {term.name!r} works on LoRA's own factors, which method {method!r} does not train: choose "
                f"among the strategies {', '.join(ANY_METHOD)} or among the methods {', '.join(OWN_FACTORS)}"
            )


def build_strategy(text: str) -> Strategy:
    """Build the combination that ``text`` names.

    The combination keeps its state under the names of its strategies. So a strategy finds its own state again when
    other strategies are added to the recipe or removed from it.

    Args:
        text: A recipe's ``strategy``, such as ``replay(share=1)+ella``.

    Returns:
        A new strategy with the given options.

    Raises:
        InvalidInput: If a name, an option or a value does not exist.
    """
    return Combined({term.name: _build_one(term) for term in parse_strategy(text)})


def _build_one(term: StrategyTerm) -> Strategy:
    strategy: Callable[..., Strategy] = STRATEGIES[term.name]
    known = signature(strategy).parameters
    for option in term.options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InvalidInput(f"strategy {term.name!r} has no option {option!r}; {has}")
    try:
        return strategy(**term.options)
    except ValidationError as error:
        first = error.errors()[0]
        wrong, message = f"{first['loc'][0]}={first['input']}", first["msg"].removeprefix("Input ")
        raise InvalidInput(f"option {wrong} of strategy {term.name!r} {message}") from error
