import pytest
from pydantic import ValidationError

from looper.platform.domain.consolidation import Recipe, TrainerShape


def test_only_a_quantised_base_needs_a_trainer_of_its_own() -> None:
    shapes = {
        method: Recipe.model_validate({"method": method}).trainer_shape
        for method in ("lora", "rslora", "lora+", "dora", "adalora", "qlora")
    }
    assert {method for method, shape in shapes.items() if shape is TrainerShape.NF4} == {"qlora"}
    assert Recipe(rank=4, target_modules=("q_proj",)).trainer_shape == Recipe(rank=64).trainer_shape


@pytest.mark.parametrize(
    "strategy", ["none", "replay(share=0.5)+ella", "online-ewc(strength=1e-3,decay=0.9)", "i-lora"]
)
def test_strategies_are_written_as_terms(strategy: str) -> None:
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
def test_what_a_recipe_refuses(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Recipe.model_validate({field: value})
