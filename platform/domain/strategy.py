"""Names and syntax of strategies, such as ``replay(share=1)+ella(weight=1e3)``.

Recipes validate their strategy here. ``looper.jobs.consolidation.strategies.registry`` maps each name to its class.
This module does not import the registry, because the registry imports torch.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from looper.platform.domain.errors import InvalidInput


class StrategyName(StrEnum):
    """Names of all strategies. This is the only list of them: the registry, benchmarks and error messages use it."""

    NONE = "none"
    REPLAY = "replay"
    REPLAY_LOSS = "replay-loss"
    EWC = "ewc"
    ONLINE_EWC = "online-ewc"
    ONLINE_EWC_FACTORS = "online-ewc-factors"
    O_LORA = "o-lora"
    I_LORA = "i-lora"
    ONLINE_LORA = "online-lora"
    PROGRESSIVE = "progressive"
    AM_LORA = "am-lora"
    ELLA = "ella"
    DISTILL = "distill"
    MERGE = "merge"
    SLAO = "slao"


STRATEGY_NAMES = tuple(name.value for name in StrategyName)
"""The names as plain strings."""

_TERM = r"[a-z-]+(?:\([^()]*\))?"
_OPTION = re.compile(r"([a-z_]+)=([\w.+-]+)")


@dataclass(frozen=True)
class StrategyTerm:
    """One strategy of a combination."""

    name: str
    """One of ``STRATEGY_NAMES``."""
    options: dict[str, str]
    """Options as they were written. The strategy's class parses the values."""


def parse_strategy(text: str) -> list[StrategyTerm]:
    """Parse a combination of strategies.

    Args:
        text: Terms joined by ``+``, each written as ``name`` or ``name(option=value,...)``.

    Returns:
        The terms in their order.

    Raises:
        InvalidInput: The syntax is wrong, a name is unknown, or a name is repeated.
    """
    if not re.fullmatch(rf"{_TERM}(?:\+{_TERM})*", text):
        raise InvalidInput(
            f"strategy {text!r} does not have the form name(option=value,...)+name: try replay(share=1)+ella"
        )
    terms = [_parse_term(term) for term in re.findall(_TERM, text)]
    names = [term.name for term in terms]
    for name in names:
        if name not in STRATEGY_NAMES:
            raise InvalidInput(f"strategy {name!r} does not exist: choose one of {', '.join(STRATEGY_NAMES)}")
        if names.count(name) > 1:
            raise InvalidInput(f"strategy {name!r} is repeated in {text!r}: name it once")
    return terms


def check_strategy(text: str) -> str:
    """Return ``text`` unchanged if it is a valid combination of strategies.

    Raises:
        InvalidInput: See ``parse_strategy``.
    """
    parse_strategy(text)
    return text


def _parse_term(text: str) -> StrategyTerm:
    name, _, option_list = text.removesuffix(")").partition("(")
    options: dict[str, str] = {}
    for option_text in option_list.split(",") if option_list else []:
        option = _OPTION.fullmatch(option_text)
        if option is None or option[1] in options:
            raise InvalidInput(
                f"option {option_text!r} of strategy {name!r} is malformed or repeated: write it once as option=value, "
                f"such as {name}(weight=1)"
            )
        options[option[1]] = option[2]
    return StrategyTerm(name, options)
