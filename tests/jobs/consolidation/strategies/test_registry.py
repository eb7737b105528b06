import subprocess
import sys

import pytest

from looper.jobs.consolidation.strategies.registry import build_strategy
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.strategy import StrategyTerm, parse_strategy


def test_terms_and_options() -> None:
    assert parse_strategy("replay(share=0.5,capacity=64)+ella(weight=1e+3)+i-lora()") == [
        StrategyTerm("replay", {"share": "0.5", "capacity": "64"}),
        StrategyTerm("ella", {"weight": "1e+3"}),
        StrategyTerm("i-lora", {}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not have the form"),
        ("replay+", "does not have the form"),
        ("replay(share=0.5", "does not have the form"),
        ("replay ella", "does not have the form"),
        ("reply", "choose one of none, replay, replay-loss"),
        ("replay+replay", "is repeated"),
        ("replay(0.5)", "malformed or repeated"),
        ("replay(share=1,share=2)", "malformed or repeated"),
        ("replay(size=5)", "no option 'size'; it has share, capacity"),
        ("none(weight=1)", "no option 'weight'; it has none"),
        ("replay(capacity=many)", "capacity=many of strategy 'replay' should be a valid integer"),
        ("replay(share=0)", "share=0 of strategy 'replay' should be greater than 0"),
        ("ella(weight=inf)", "weight=inf of strategy 'ella' should be a finite number"),
        ("merge(kind=ours)", "kind=ours of strategy 'merge' should be 'linear', 'cat'"),
        ("o-lora+am-lora", "combine only one"),
    ],
)
def test_mistakes_say_what_there_is(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        build_strategy(text)
    assert "\n" not in str(raised.value)


def test_a_recipe_takes_every_way_of_writing() -> None:
    text = "replay-loss(share=0.5,capacity=64)+merge(kind=ties_svd,old=-1e+1)"
    build_strategy(Recipe(strategy=text).strategy)


def test_names_are_checked_without_torch() -> None:
    program = (
        "import sys\nfrom looper.platform.domain.strategy import parse_strategy\nparse_strategy('replay')\n"
        "print(sorted({'torch', 'peft', 'transformers', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
