"""How strategies are written, such as ``replay(share=1)+ella(weight=1e3)``. Imports no torch."""

import re
from dataclasses import dataclass

from looper.platform.domain.errors import InvalidInput

STRATEGY_NAMES = (
    "none",
    "replay",
    "replay-loss",
    "ewc",
    "online-ewc",
    "online-ewc-factors",
    "o-lora",
    "i-lora",
    "online-lora",
    "progressive",
    "am-lora",
    "ella",
    "distill",
    "merge",
)

_TERM = r"[a-z-]+(?:\([^()]*\))?"
_OPTION = re.compile(r"([a-z_]+)=([\w.+-]+)")


@dataclass(frozen=True)
class StrategyTerm:
    """One strategy of a combination, with its options as they were written."""

    name: str
    options: dict[str, str]


def parse_strategy(text: str) -> list[StrategyTerm]:
    """The terms of ``text``, in their order. Raises InvalidInput for a form or a name that there is not."""
    if not re.fullmatch(rf"{_TERM}(?:\+{_TERM})*", text):
        raise InvalidInput(f"strategy {text!r} is not written as name(option=value,...)+name: try replay(share=1)+ella")
    terms = [_term(term) for term in re.findall(_TERM, text)]
    names = [term.name for term in terms]
    for name in names:
        if name not in STRATEGY_NAMES:
            raise InvalidInput(f"there is no strategy {name!r}; choose among {', '.join(STRATEGY_NAMES)}")
        if names.count(name) > 1:
            raise InvalidInput(f"strategy {name!r} is named more than once in {text!r}: name it once")
    return terms


def _term(text: str) -> StrategyTerm:
    name, _, inside = text.removesuffix(")").partition("(")
    options: dict[str, str] = {}
    for written in inside.split(",") if inside else []:
        option = _OPTION.fullmatch(written)
        if option is None or option[1] in options:
            raise InvalidInput(f"option {written!r} of strategy {name!r} is not one option=value: try {name}(weight=1)")
        options[option[1]] = option[2]
    return StrategyTerm(name, options)
