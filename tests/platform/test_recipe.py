"""Recipes: validation of their fields, and the trainer shape."""

import pytest
from pydantic import ValidationError

from looper.platform.domain.recipe import Recipe, TrainerShape


def test_only_qlora_needs_another_trainer_shape() -> None:
    shapes = {
        method: Recipe.model_validate({"method": method}).trainer_shape
        for method in ("lora", "rslora", "lora+", "dora", "adalora", "qlora")
    }
    assert {method for method, shape in shapes.items() if shape is TrainerShape.NF4} == {"qlora"}
    assert Recipe(rank=4, target_modules=("q_proj",)).trainer_shape == Recipe(rank=64).trainer_shape


@pytest.mark.parametrize(
    "strategy", ["none", "replay(share=0.5)+ella", "online-ewc(strength=1e-3,decay=0.9)", "i-lora"]
)
def test_combinations_of_strategies_are_accepted(strategy: str) -> None:
    assert Recipe(strategy=strategy).strategy == strategy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy", ""),
        ("strategy", "replay; rm"),
        ("strategy", "../x"),
        ("method", "full"),
        ("target_modules", ()),
        ("target_modules", ("model.layers.0.q_proj",)),
    ],
)
def test_invalid_recipes_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Recipe.model_validate({field: value})
