"""The strategies there are, by name."""

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
from looper.jobs.consolidation.strategies.strategy import Strategy
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.strategy import StrategyTerm, parse_strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "none": Strategy,
    "replay": Replay,
    "replay-loss": LossReplay,
    "ewc": Ewc,
    "online-ewc": OnlineEwc,
    "online-ewc-factors": OnlineEwcFactors,
    "o-lora": OLora,
    "i-lora": ILora,
    "online-lora": OnlineLora,
    "progressive": Progressive,
    "am-lora": AmLora,
    "ella": Ella,
    "distill": Distill,
    "merge": Merge,
}

ANY_METHOD = ("none", "replay", "replay-loss", "merge")
"""Those that leave what is trained alone until it is plain LoRA. The others work on LoRA's own factors."""

OWN_FACTORS = ("lora", "rslora", "lora+", "qlora")
"""The methods that train those."""


def check_method(text: str, method: str) -> None:
    """Raises InvalidInput if the combination that ``text`` names does not go with a recipe's ``method``."""
    if method in OWN_FACTORS:
        return
    for term in parse_strategy(text):
        if term.name not in ANY_METHOD:
            raise InvalidInput(
                f"strategy {term.name!r} works on LoRA's own factors, which method {method!r} does not train: choose "
                f"among the strategies {', '.join(ANY_METHOD)} or among the methods {', '.join(OWN_FACTORS)}"
            )


def parse(text: str) -> Strategy:
    """The combination that ``text`` names, such as ``replay(share=1)+ella``.

    What it remembers is kept by the strategies' names, so that a strategy finds its own again when others join it or
    go. Raises InvalidInput for a name, an option or a value that there is not.
    """
    return Combined({term.name: _made(term) for term in parse_strategy(text)})


def _made(term: StrategyTerm) -> Strategy:
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
