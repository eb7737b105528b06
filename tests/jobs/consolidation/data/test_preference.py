"""The preference loss: its formula, what it does to pairs, and that a tenant's result stays its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM

from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.encode_pairs import encode_pairs
from looper.jobs.consolidation.data.preference import EncodedPairs, PairWindows, measure_margins, pairs_of
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.fused_step import FusedStep, compute_losses_and_gradients
from looper.jobs.consolidation.training.session import TrainingSession
from looper.jobs.consolidation.training.session_setup import start_session
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.jobs.synthesis.output.example_table import PAIR_SCHEMA, pair_to_row, read_pairs, write_rows
from looper.jobs.synthesis.stages.preference_pairs import PreferencePair
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.example import Turn
from looper.platform.domain.scores import Margins
from looper.platform.domain.states import QueueStage
from looper.platform.domain.trajectory import ToolCall
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings
from tests.jobs.consolidation.training.test_trainer import (
    BASE,
    Killed,
    claim,
    max_relative_difference,
    raise_killed,
    reset_to_training,
    run_rank,
    ticking_clock,
    train_jobs,
    weights,
)
from tests.jobs.episodes import RECIPE, TOOLS, episode, submit
from tests.jobs.windows import put_examples, replace_object

pytestmark = pytest.mark.usefixtures("one_process")

PREFERRING = RECIPE.model_copy(update={"preference_weight": 0.5, "method": "lora", "strategy": "none"})
SMALL_PASSES = Device(torch.device("cpu"), torch.float32, max_tokens_per_pass=64)


@pytest.fixture(scope="module")
def base(base_dir: Path) -> SharedBase:
    return SharedBase(base_dir, SMALL_PASSES)


def random_window(rng: Random, *beginning: int) -> Window:
    answer = [rng.randrange(250) for _ in range(rng.randrange(2, 9))]
    return Window.of((*beginning, *answer), (*[0.0] * len(beginning), *[1.0] * len(answer)), ())


def random_pairs(seed: int, count: int) -> list[PairWindows]:
    rng = Random(seed)
    beginnings = [(1, 2, *(rng.randrange(250) for _ in range(12))) for _ in range(count)]
    return [PairWindows(random_window(rng, *each), random_window(rng, *each)) for each in beginnings]


def random_tenant(base: SharedBase, seed: int, pairs: int = 9, **recipe: object) -> TrainingSession:
    """One that has learned something already, so that both of its factors have gradients."""
    rng = Random(seed)
    windows = [random_window(rng, 1, 2, 3, 4) for _ in range(9)]
    recipe = {"seed": seed, **recipe}
    tenant = start_session(base, PREFERRING.model_copy(update=recipe), windows, None, {}, random_pairs(seed, pairs))
    for factors in tenant.active_adapter.values():
        torch.nn.init.normal_(factors.b, std=0.05, generator=torch.Generator().manual_seed(seed))
    return tenant


def as_written(model_dir: Path, tenant: TrainingSession) -> list[Tensor]:
    """The gradients of the two losses of the next step as papers write them, each window by itself, in float64."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    changed = {
        f"{layer}.weight": model.get_parameter(f"{layer}.weight").detach()
        + each.scale * each.b.double() @ each.a.double()
        for layer, each in tenant.active_adapter.items()
    }

    def nats(window: Window) -> Tensor:
        tokens = torch.tensor(window.tokens[None], dtype=torch.long)
        logits = functional_call(model, changed, (tokens,)).logits
        return cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")[-window.targets :]

    def odds(window: Window) -> Tensor:
        p = nats(window).mean().neg().exp()
        return p / (1 - p)

    loss = torch.cat([nats(window) for window in tenant.next_batch()]).mean()
    terms = [-logsigmoid((odds(pair.chosen) / odds(pair.rejected)).log()) for pair in tenant.next_pairs()]
    assert len(terms) > 1
    whole = loss + tenant.recipe.preference_weight * torch.stack(terms).mean()
    return [gradient.float() for gradient in torch.autograd.grad(whole, tenant.trainable)]


def test_the_gradient_is_that_of_the_formula(base: SharedBase, base_dir: Path) -> None:
    tenant = random_tenant(base, 1)
    ((_, found),) = compute_losses_and_gradients(base, [tenant])
    for ours, expected in zip(found, as_written(base_dir, tenant), strict=True):
        assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_pair_that_is_certain_has_a_loss_and_a_gradient() -> None:
    pair = PairWindows(*[Window.of((0, 1), (0.0, 1.0), ())] * 2)
    for losses in ([0.0, 200.0], [200.0, 0.0], [0.0, 0.0]):
        given = torch.tensor(losses, requires_grad=True)
        loss = pair.loss(given)
        (gradient,) = torch.autograd.grad(loss, given)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_beside_others_and_with_pauses_the_gradients_are_those_of_each_alone(base: SharedBase) -> None:
    tenants = [
        random_tenant(base, 1),
        random_tenant(base, 2, pairs=0),
        random_tenant(base, 3, pairs=7, preference_weight=2.0),
    ]
    together = FusedStep(base, tenants)
    passes = 1
    while together.run_pass():
        compute_losses_and_gradients(base, [random_tenant(base, 4)])  # a newcomer's, meanwhile
        passes += 1
    assert passes > 2
    for tenant, (loss, gradients) in zip(tenants, together.results(), strict=True):
        ((alone_loss, alone),) = compute_losses_and_gradients(base, [tenant])
        assert loss == pytest.approx(alone_loss, rel=1e-5)
        for ours, expected in zip(gradients, alone, strict=True):
            assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_few_steps_make_the_chosen_turn_likelier_than_the_rejected(base: SharedBase) -> None:
    def learn(preference: float) -> Margins:
        tenant = random_tenant(base, 1, preference_weight=preference, epochs=3)
        before = {layer: each.copy() for layer, each in tenant.active_adapter.items()}
        while not tenant.is_done:
            ((loss, gradients),) = compute_losses_and_gradients(base, [tenant])
            tenant.take_step(loss, gradients)
        return measure_margins(base, before, tenant.active_adapter, EncodedPairs(random_pairs(1, 9), {}))

    preferring, hardly = learn(1.0), learn(1e-6)
    assert preferring.pairs == 9
    assert preferring.before is not None
    assert preferring.after is not None
    assert hardly.after is not None
    assert preferring.before == hardly.before
    assert preferring.after > preferring.before + 1
    assert preferring.after > hardly.after + 1


def agent(content: str, **arguments: str) -> Turn:
    calls = (ToolCall(id="c1", name="book", arguments=str(arguments).replace("'", '"')),) if arguments else ()
    return Turn(role="assistant", content=content, tool_calls=calls, weight=0.3)


def pair(chosen: Turn, rejected: Turn, asked: str = "Book it.") -> PreferencePair:
    prefix = (Turn(role="system", content="You book rooms."), Turn(role="user", content=asked))
    return PreferencePair(
        task_id="t",
        chosen_from="good",
        rejected_from="bad",
        prefix=prefix,
        chosen=chosen,
        rejected=rejected,
        tools=TOOLS,
    )


def test_pairs_become_windows_and_bad_ones_are_left_out_with_a_reason(base_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base_dir, folder)
    template = folder / "chat_template.jinja"
    refuses = "{%- if messages[0].role == 'tool' %}{{ raise_exception('begins with a tool') }}{%- endif %}"
    template.write_text(refuses + template.read_text())
    encoder = ExampleEncoder.open(folder, 256)
    good = pair(agent("", room="blue"), agent("", room="red"))
    refused = good.model_copy(update={"prefix": (Turn(role="tool", content="ok"),)})
    found = encode_pairs(
        [
            good,
            pair(agent(" "), agent("done")),
            pair(agent("done"), agent("")),
            pair(agent("done"), agent("done")),
            pair(agent("done"), agent("no"), asked="Please. " * 200),
            refused,
        ],
        encoder,
        256,
        "revision",
    )
    assert found.left_out == {
        "empty": 2,
        "identical": 1,
        "longer than max_seq_length": 1,
        "refused by the chat template": 1,
    }
    (usable,) = pairs_of(found).usable

    def learned(window: Window) -> str:
        tokens = [token for token, weight in zip(window.tokens, window.weights, strict=True) if weight == 1.0]
        assert len(tokens) == window.targets
        return str(encoder._renderer.tokenizer.decode(tokens))

    call = '<tool_call>\n{{"name": "book", "arguments": {{"room": "{}"}}}}\n</tool_call><|im_end|>'
    assert [learned(window) for window in usable.windows] == [call.format("blue"), call.format("red")]


@pytest.fixture
def new_trainer(base_dir: Path, device: Device, catalog: Catalog, store: ObjectStore) -> Callable[[], TrainerContext]:
    return lambda: TrainerContext(SharedBase(base_dir, device), catalog, store, owner="me", max_rank=16)


def queue(trainer: TrainerContext, name: str, **recipe: object) -> None:
    """Tasks that were done well, most of them badly, too, by booking another room."""
    batch = [episode(task, room=name, words=1 + task % 3) for task in range(14)]
    batch += [episode(task, room="wrong", words=1 + task % 3, success=False) for task in range(10)]
    recipe = {"preference_weight": 0.5, **recipe}
    submit(
        trainer.catalog,
        trainer.store,
        f"acme/{name}",
        batch,
        base=BASE,
        recipe=RECIPE.model_copy(update=recipe),
        id=name,
    )


def without_pairs(trainer: TrainerContext, job: Consolidation) -> None:
    put_pairs(trainer, job, [])


def put_pairs(trainer: TrainerContext, job: Consolidation, pairs: list[PreferencePair]) -> None:
    content = write_rows(map(pair_to_row, pairs), PAIR_SCHEMA)
    put_examples(trainer.store, job, {"pairs.parquet": content}, trainer.base.folder)


def told(trainer: TrainerContext, job: Consolidation) -> Margins | None:
    return checkpoint.load_candidate(trainer.store, job.id).scores.margins


def test_a_cohort_prefers_each_as_if_it_were_alone(new_trainer: Callable[[], TrainerContext]) -> None:
    trainer = new_trainer()
    queue(trainer, "red", seed=1)
    queue(trainer, "green", preference_weight=0.0)
    queue(trainer, "blue", preference_weight=1.0, epochs=3)
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    together = [weights(trainer, job) for job in cohort]
    for job in cohort[::2]:
        found = told(trainer, job)
        assert found is not None
        assert found.pairs > 3
        assert found.left_out == {}
        assert found.after is not None
        assert found.before is not None
        assert found.after > found.before
    assert told(trainer, cohort[1]) is None

    for job, in_cohort in zip(reset_to_training(trainer, cohort), together, strict=True):
        train_jobs([job], new_trainer())
        assert max_relative_difference(weights(trainer, job), in_cohort) < 1e-5


def test_off_or_without_pairs_the_plain_loss_alone_is_trained(new_trainer: Callable[[], TrainerContext]) -> None:
    trainer = new_trainer()
    queue(trainer, "red", preference_weight=0.0)
    (off,) = claim(trainer)
    train_jobs([off], trainer)
    plain = weights(trainer, off)
    without_pairs(trainer, off)
    train_jobs(reset_to_training(trainer, [off]), new_trainer())
    assert max_relative_difference(weights(trainer, off), plain) == 0

    queue(trainer, "blue")
    (on,) = claim(trainer)
    name = "train.windows.parquet"
    replace_object(trainer.store, keys.examples(on.id, name), trainer.store.get(keys.examples(off.id, name)))
    pairs = read_pairs(trainer.store.get(keys.examples(on.id, "pairs.parquet")))
    train_jobs([on], new_trainer())
    assert max_relative_difference(weights(trainer, on), plain) > 0.01
    without_pairs(trainer, on)
    train_jobs(reset_to_training(trainer, [on]), new_trainer())
    assert max_relative_difference(weights(trainer, on), plain) == 0
    assert told(trainer, on) == Margins(pairs=0, left_out={}, before=None, after=None)

    same = [each.model_copy(update={"rejected": each.chosen}) for each in pairs]
    put_pairs(trainer, on, same)
    train_jobs(reset_to_training(trainer, [on]), new_trainer())
    assert max_relative_difference(weights(trainer, on), plain) == 0
    assert told(trainer, on) == Margins(pairs=0, left_out={"identical": len(pairs)}, before=None, after=None)


def test_a_killed_training_with_pairs_goes_on_exactly(new_trainer: Callable[[], TrainerContext]) -> None:
    trainer = new_trainer()
    queue(trainer, "red", seed=3)
    queue(trainer, "blue", seed=4)
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    expected = [weights(trainer, job) for job in cohort]
    with pytest.raises(Killed):
        train_jobs(
            reset_to_training(trainer, cohort),
            new_trainer(),
            checkpoint_interval_s=0,
            clock=ticking_clock(16, raise_killed),
        )
    assert all(checkpoint.list_checkpoint_steps(trainer.store, job.id) for job in cohort)
    train_jobs(trainer.catalog.claim("me", QueueStage.TRAINING, limit=8, lease_s=600), new_trainer())
    for job, uninterrupted in zip(cohort, expected, strict=True):
        assert max_relative_difference(weights(trainer, job), uninterrupted) == 0


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
def test_two_workers_prefer_what_one_prefers(
    new_trainer: Callable[[], TrainerContext], settings: Settings, base_dir: Path, tmp_path: Path, sharded: bool
) -> None:
    trainer = new_trainer()
    queue(trainer, "red")
    queue(trainer, "blue", batch_size=1, max_steps=5)
    cohort = claim(trainer)
    train_jobs(cohort, trainer)
    alone = [weights(trainer, job) for job in cohort]
    cohort = reset_to_training(trainer, cohort)
    torch.multiprocessing.spawn(run_rank, (settings, base_dir, cohort, str(tmp_path / "meet"), sharded), nprocs=2)
    for job, expected in zip(cohort, alone, strict=True):
        found = weights(trainer, job)  # to rounding, which AdamW makes much of: see the test without pairs
        assert max(float((found[key] - t).norm() / t.norm()) for key, t in expected.items()) < 1e-3
