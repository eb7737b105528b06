"""Each method of a recipe against PEFT's own training, and what is published of it against what was trained."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.config import PeftConfig
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from looper.jobs.consolidation.adapters import adapter_file
from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.adapters.peft_layers import ActiveAdapter, DoraLayer
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.evaluation.teacher_forcing import evaluate_windows
from looper.jobs.consolidation.model import nf4
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.schedule import batch_at, learning_rate
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.session_setup import LORA_PLUS_RATIO, start_session
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.recipe import Recipe
from looper.platform.objectstore import ObjectStore
from tests.jobs.consolidation.training.test_trainer import claim, submit_job, train_jobs

pytestmark = pytest.mark.usefixtures("one_process")

DEVICE = Device(torch.device("cpu"), torch.float32, max_tokens_per_pass=256)
RECIPE = Recipe(
    rank=4, alpha=8, epochs=2, batch_size=4, learning_rate=3e-3, weight_decay=0.01, max_grad_norm=0.5, seed=3
)
ALL_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PEFTS = ("lora", "rslora", "lora+", "dora", "adalora")


@pytest.fixture(scope="module")
def base(base_dir: Path) -> SharedBase:
    return SharedBase(base_dir, DEVICE)


@pytest.fixture(scope="module")
def nf4_base(base_dir: Path) -> SharedBase:
    pytest.importorskip("bitsandbytes")
    return SharedBase(base_dir, DEVICE, load=nf4.load_quantized)


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    rng = Random(5)
    beginning = [rng.randrange(250) for _ in range(6)]
    answer = [rng.randrange(250) for _ in range(6)]
    tokens = [(*beginning, *(rng.randrange(250) for _ in range(rng.randrange(1, 16))), *answer) for _ in range(14)]
    return [Window.of(each, (*[0.0] * 6, *[1.0] * (len(each) - 6)), ()) for each in tokens]


def recipe(method: str, **other: object) -> Recipe:
    return RECIPE.model_copy(update={"method": method, **other})


def train(base: SharedBase, *tenants: TrainingSession, steps: int | None = None) -> list[float]:
    """Together in each pass, to their end or for so many steps; return the first one's losses."""
    losses = []
    while not tenants[0].is_done and (steps is None or len(losses) < steps):
        results = compute_losses_and_gradients(base, tenants)
        for tenant, (loss, gradients) in zip(tenants, results, strict=True):
            tenant.take_step(loss, gradients)
        losses.append(results[0][0])
    return losses


def total(base: SharedBase, acting: ActiveAdapter | None, windows: Sequence[Window]) -> float:
    return sum(each.loss for each in evaluate_windows(base, acting, windows))


def weights(tenant: TrainingSession) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in tenant.trainable]


def by_layer(acting: ActiveAdapter) -> Iterator[tuple[str, Tensor]]:
    """All that is in an adapter, by PEFT's names."""
    for layer, each in acting.items():
        if isinstance(each, DoraLayer):
            yield from ((f"{layer}.{name}", p) for name, p in each.layer.named_parameters() if p.requires_grad)
        else:
            yield from ((f"{layer}.{name}", tensor) for name, tensor in (("a", each.scale * each.a), ("b", each.b)))


class Reference:
    """One tenant alone through plain PEFT, one window at a time."""

    def __init__(self, model: PreTrainedModel, recipe: Recipe, like: TrainingSession) -> None:
        """On ``model``, with the values that ``like`` begins with."""
        self.recipe = recipe
        plain = {"r": recipe.rank, "lora_alpha": recipe.alpha, "target_modules": ALL_LAYERS}
        configs: dict[str, Callable[[], LoraConfig]] = {
            "rslora": lambda: LoraConfig(**plain, use_rslora=True),
            "dora": lambda: LoraConfig(**plain, use_dora=True),
            "adalora": lambda: AdaLoraConfig(
                init_r=recipe.rank,
                target_r=recipe.rank * 2 // 3,
                lora_alpha=recipe.alpha,
                target_modules=ALL_LAYERS,
                tinit=like.steps // 10,
                tfinal=like.steps // 3,
                total_step=like.steps,
            ),
        }
        config = configs.get(recipe.method, lambda: LoraConfig(**plain))()
        self.model = get_peft_model(model, config)
        with torch.no_grad():
            for name, value in by_layer(like.active_adapter):
                layer, _, side = name.removeprefix("model.").rpartition(".")
                if side in ("a", "b") and recipe.method != "adalora":
                    scale = like.active_adapter[f"model.{layer}"].scale if side == "a" else 1  # type: ignore[union-attr]
                    self._side(layer, side).copy_(value / scale)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if recipe.method in ("dora", "adalora"):  # these keep PEFT's own order
            with torch.no_grad():
                for mine, theirs in zip(trained, like.trainable, strict=True):
                    mine.copy_(theirs)
        self.optimizer: Optimizer = AdamW(trained, weight_decay=recipe.weight_decay)
        if recipe.method == "lora+":
            self.optimizer = create_loraplus_optimizer(
                self.model, AdamW, lr=1.0, loraplus_lr_ratio=LORA_PLUS_RATIO, loraplus_weight_decay=recipe.weight_decay
            )
        self.rates = [group["lr"] if recipe.method == "lora+" else 1.0 for group in self.optimizer.param_groups]
        self.trained = trained
        self.steps = like.steps

    def _side(self, layer: str, side: str) -> Tensor:
        module = self.model.get_submodule(f"base_model.model.model.{layer}")
        tensor: Tensor = getattr(module, f"lora_{side.upper()}")["default"].weight
        return tensor

    def step(self, number: int, windows: Sequence[Window]) -> None:
        batch = [windows[i] for i in batch_at(number, len(windows), self.recipe)]
        total = sum(window.total_weight for window in batch)
        self.optimizer.zero_grad()
        for i, window in enumerate(batch):
            loss = (nats(self.model, window) * torch.tensor(window.weights[1:])).sum() / total
            if self.recipe.method == "adalora" and i == 0:  # PEFT adds its penalty to a loss that the model computes
                tokens = torch.tensor(window.tokens[None], dtype=torch.long)
                adapted = self.model.base_model
                loss = loss + adapted(tokens, labels=tokens).loss - adapted.model(tokens, labels=tokens).loss
            loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.recipe.max_grad_norm)
        rate = learning_rate(number, self.steps, self.recipe)
        for group, factor in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        if self.recipe.method == "adalora":
            self.model.base_model.update_and_allocate(number + 1)

    def by_layer(self) -> dict[str, Tensor]:
        found = {}
        for name, module in self.model.named_modules():
            if not hasattr(module, "lora_A") or "default" not in module.lora_A:
                continue
            layer = name.removeprefix("base_model.model.")
            if self.recipe.method == "dora":
                found |= {f"{layer}.{key}": p for key, p in module.named_parameters() if p.requires_grad}
            elif self.recipe.method == "adalora":
                scale = module.scaling["default"] / (module.ranknum["default"] + 1e-5)
                found[f"{layer}.a"] = scale * module.lora_A["default"] * module.lora_E["default"]
                found[f"{layer}.b"] = module.lora_B["default"]
            else:
                found[f"{layer}.a"] = module.scaling["default"] * module.lora_A["default"].weight
                found[f"{layer}.b"] = module.lora_B["default"].weight
        return found


def nats(model: PreTrainedModel | PeftModel, window: Window) -> Tensor:
    tokens = torch.tensor(window.tokens[None], dtype=torch.long)
    return cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:], reduction="none")


@pytest.mark.parametrize("method", PEFTS)
def test_each_method_trains_as_peft_does(base: SharedBase, base_dir: Path, windows: list[Window], method: str) -> None:
    tenant = start_session(base, recipe(method), windows, None, {})
    reference = Reference(AutoModelForCausalLM.from_pretrained(base_dir), recipe(method), tenant)
    same_training(base, tenant, reference, windows)
    if method == "adalora":
        adapted = [each for each in tenant.active_adapter.values() if isinstance(each, Factors)]
        zeros = sum(int((each.a == 0).all(1).sum()) for each in adapted)
        assert zeros == 14 * (4 - 2), "not pruned to two thirds of the ranks"


def same_training(base: SharedBase, tenant: TrainingSession, reference: Reference, windows: Sequence[Window]) -> None:
    before = total(base, tenant.active_adapter, windows)
    for number in range(tenant.steps):
        train(base, tenant, steps=1)
        reference.step(number, windows)
        expected = reference.by_layer()
        found = dict(by_layer(tenant.active_adapter))
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert (tensor - expected[name]).norm() <= 1e-4 * expected[name].norm(), f"{name} at step {number}"
    assert total(base, tenant.active_adapter, windows) < before


def test_all_methods_share_a_pass(base: SharedBase, windows: list[Window]) -> None:
    def new(i: int) -> TrainingSession:
        return start_session(base, recipe(PEFTS[i], seed=i), windows[i:], None, {})

    together = [new(i) for i in range(len(PEFTS))]
    train(base, *together, steps=3)
    for i, tenant in enumerate(together):
        alone = new(i)
        train(base, alone, steps=3)
        for mine, expected in zip(tenant.trainable, alone.trainable, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def logits(base: SharedBase, acting: ActiveAdapter | None, windows: Sequence[Window]) -> Tensor:
    with torch.no_grad():
        return base.logits(base.pack([windows]), [] if acting is None else [acting])


def loaded(folder: Path, work: Path, lora: Lora) -> PeftModel:
    (work / "adapter_model.safetensors").write_bytes(adapter_file.serialize_weights(lora))
    (work / "adapter_config.json").write_bytes(adapter_file.serialize_config(lora, str(folder)))
    config = PeftConfig.from_pretrained(str(work))
    assert (config.peft_type, config.use_dora, config.use_rslora) == ("LORA", False, False)
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(work))


def through_peft(model: PeftModel, windows: Sequence[Window]) -> Tensor:
    """As ``logits`` has them."""
    with torch.no_grad():
        rows = [
            model(torch.tensor(w.tokens[None], dtype=torch.long)).logits[0, [i - 1 for i in w.target_places]]
            for w in windows
        ]
    return torch.cat(rows)


@pytest.mark.parametrize(("method", "rank"), [*((method, 4) for method in PEFTS), ("dora", 128)])
def test_what_is_published_is_plain_lora(
    base: SharedBase, base_dir: Path, tmp_path: Path, windows: list[Window], method: str, rank: int
) -> None:
    tenant = start_session(base, recipe(method, rank=rank), windows, None, {})
    train(base, tenant)
    trained = logits(base, tenant.active_adapter, windows)
    lora, error = tenant.export_adapter(max_rank=128)
    served = through_peft(loaded(base_dir, tmp_path, lora), windows)
    away = float((served - trained).norm() / (trained - logits(base, None, windows)).norm())
    if method == "dora" and rank == 4:
        assert 0.01 < away < error < 0.5
    else:  # the tiny base's layers are of rank 128: DoRA's update is, too
        assert error < 1e-4
        assert away < 1e-3


def test_the_error_of_dora_is_that_of_the_merged_weights(
    base: SharedBase, base_dir: Path, tmp_path: Path, windows: list[Window]
) -> None:
    tenant = start_session(base, recipe("dora"), windows, None, {})
    reference = Reference(AutoModelForCausalLM.from_pretrained(base_dir), recipe("dora"), tenant)
    for number in range(4):
        train(base, tenant, steps=1)
        reference.step(number, windows)
    lora, error = tenant.export_adapter(max_rank=16)
    trained = reference.model.merge_and_unload()
    served = loaded(base_dir, tmp_path, lora).merge_and_unload()
    before = AutoModelForCausalLM.from_pretrained(base_dir)
    lost = whole = 0.0
    for layer in base.linear_layers:
        w, mine, theirs = (model.get_submodule(layer).weight for model in (before, served, trained))
        lost += float((theirs - mine).square().sum())
        whole += float((theirs - w).square().sum())
    assert error == pytest.approx((lost / whole) ** 0.5, rel=1e-2)


@pytest.mark.parametrize("method", ["dora", "adalora"])
@pytest.mark.parametrize("rank", [4, 6])
def test_a_session_begins_where_the_version_before_ended(
    base: SharedBase, windows: list[Window], method: str, rank: int
) -> None:
    first = start_session(base, recipe("lora"), windows, None, {})
    train(base, first)
    start, _ = first.export_adapter(max_rank=16)
    second = start_session(base, recipe(method, rank=rank), windows, start, {})
    found, expected = logits(base, second.active_adapter, windows), logits(base, start, windows)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    train(base, second)
    assert total(base, second.active_adapter, windows) < total(base, start, windows)


@pytest.mark.parametrize("method", ["dora", "adalora"])
@pytest.mark.parametrize("steps", [1, 3, 6])
def test_an_interrupted_training_goes_on_exactly(
    base: SharedBase, windows: list[Window], method: str, steps: int
) -> None:
    whole = start_session(base, recipe(method), windows, None, {})
    train(base, whole)
    interrupted = start_session(base, recipe(method), windows, None, {})
    train(base, interrupted, steps=steps)
    assert interrupted.loss is not None
    again = start_session(base, recipe(method), windows, None, {})
    again.resume(steps, interrupted.loss, interrupted.serialize_state())
    train(base, again)
    for mine, expected in zip(weights(again), weights(whole), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"method": "dora", "strategy": "replay+ella"}, "strategy 'ella' works on LoRA's own factors.*method 'dora'"),
        ({"method": "adalora", "strategy": "progressive"}, "strategy 'progressive'"),
        ({"method": "adalora", "rank": 1}, "has rank 1 and 8 steps"),
        ({"method": "adalora", "max_steps": 1}, "has rank 4 and 1 steps"),
        ({"method": "dora", "target_modules": ("q_proj", "w_pack")}, "no linear layer 'w_pack'"),
    ],
)
def test_what_does_not_go_together(
    base: SharedBase, windows: list[Window], changed: dict[str, object], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        start_session(base, RECIPE.model_copy(update=changed), windows, None, {})


@pytest.mark.parametrize("method", ["dora", "adalora"])
def test_strategies_that_leave_the_factors_alone_go_with_any_method(
    base: SharedBase, windows: list[Window], method: str
) -> None:
    plan = recipe(method, strategy="replay(share=0.5)+merge")
    first = start_session(base, plan, windows[:7], None, {})
    train(base, first)
    start, _ = first.export_adapter(max_rank=16)
    second = start_session(base, plan, windows[7:], start, first.strategy.remember(start))
    assert second.steps > first.steps, "nothing is replayed"
    train(base, second)
    merged, _ = second.export_adapter(max_rank=16)
    assert merged.keys() == start.keys()


def test_qlora_trains_as_peft_does(nf4_base: SharedBase, base_dir: Path, windows: list[Window]) -> None:
    tenant = start_session(nf4_base, recipe("qlora"), windows, None, {})
    same_training(nf4_base, tenant, Reference(nf4.load_quantized(base_dir, DEVICE), recipe("qlora"), tenant), windows)


def test_qlora_is_served_on_the_whole_base(nf4_base: SharedBase, base: SharedBase, windows: list[Window]) -> None:
    served, rounding = nf4_base.serving_base
    assert 0.05 < rounding < 0.15
    torch.testing.assert_close(logits(served, None, windows), logits(base, None, windows), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(nf4_base, None, windows), logits(base, None, windows), rtol=1e-2, atol=1e-2)
    assert base.serving_base == (base, 0.0)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_qlora_without_bitsandbytes_is_refused(base_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="needs the package bitsandbytes"):
        SharedBase(base_dir, DEVICE, load=nf4.load_quantized)


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
def test_a_candidate_tells_what_its_conversion_cost(
    request: pytest.FixtureRequest, catalog: Catalog, store: ObjectStore, method: str
) -> None:
    base = request.getfixturevalue("nf4_base" if method == "qlora" else "base")
    trainer = TrainerContext(base, catalog, store, owner="me", max_rank=16)
    submit_job(trainer, "red", method=method)
    (job,) = claim(trainer)
    train_jobs([job], trainer)
    scores = checkpoint.load_candidate(store, job.id).scores
    if method == "lora":
        assert (scores.conversion_error, scores.trained) == (0.0, None)
    else:
        assert scores.conversion_error is not None
        assert 0.01 < scores.conversion_error < 0.5
        assert scores.trained is not None
        assert scores.trained.loss == pytest.approx(scores.candidate.loss, rel=0.3)
        assert scores.trained.loss != scores.candidate.loss
