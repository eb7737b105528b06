"""Train and evaluate one instance with Looper's consolidation code, for the forgetting benchmark.

``looper bench forgetting`` makes a ``LooperLearner``, and ``run.py`` calls it. It uses the training step of a trainer
in this process, without the queue and the object store around it.
"""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load, save
from typing_extensions import override

from looper.benchmarks.forgetting.learner import HeldOutScore, Learner
from looper.benchmarks.forgetting.plan import ForgettingRun
from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack_adapters
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.evaluation.teacher_forcing import evaluate_windows
from looper.jobs.consolidation.model.device import pick_device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies.strategy import StrategyState
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients, tokens_of_step
from looper.jobs.consolidation.training.session_setup import start_session
from looper.platform.domain.example import Example, find_context
from looper.platform.domain.recipe import Recipe


class LooperLearner(Learner):
    """One instance on a base model. It needs torch.distributed, which ``single_process_group`` sets up."""

    def __init__(self, model_dir: Path, max_rank: int) -> None:
        """Load the base model.

        Args:
            model_dir: Folder of the base model.
            max_rank: Rank that adapters are padded or truncated to.
        """
        self._base = SharedBase(model_dir, pick_device())
        self._model_dir = model_dir
        self._max_rank = max_rank
        self._recipe = Recipe()
        self._adapter: Lora | None = None
        self._strategy_state: StrategyState = {}
        self._trained_tokens = 0

    @property
    @override
    def parameters(self) -> int:
        return self._base.parameters

    @property
    @override
    def trained_tokens(self) -> int:
        return self._trained_tokens

    @override
    def reset(self, run: ForgettingRun) -> None:
        self._recipe, self._adapter, self._strategy_state = run.recipe, None, {}
        self._encoder = ExampleEncoder.open(self._model_dir, run.recipe.max_seq_length)

    @override
    def train(self, examples: Sequence[Example]) -> int:
        session = start_session(
            self._base,
            self._recipe,
            self._encoder.encode_all(example for example in examples if not find_context(example.id)),
            self._adapter,
            self._strategy_state,
            once=self._encoder.encode_all(example for example in examples if find_context(example.id)),
        )
        self._trained_tokens = 0
        while not session.is_done:
            self._trained_tokens += tokens_of_step(session)
            ((loss, gradients),) = compute_losses_and_gradients(self._base, [session])
            session.take_step(loss, gradients)
        self._adapter, _ = session.export_adapter(self._max_rank)
        self._strategy_state = session.strategy.remember(self._adapter)
        session.close()
        return session.step

    @override
    def evaluate(self, examples: Sequence[Example]) -> HeldOutScore:
        windows_by_episode = [self._encoder.encode(example) for example in examples]
        windows = [window for episode in windows_by_episode for window in episode]
        evaluations = iter(evaluate_windows(self._base, self._adapter, windows))
        episodes = [[next(evaluations) for _ in episode] for episode in windows_by_episode]
        calls = [right for episode in episodes for part in episode for right in part.right]
        return HeldOutScore(
            episodes=len(episodes),
            solved=sum(all(part.exact for part in episode) for episode in episodes),
            calls=len(calls),
            right=sum(calls),
            loss=sum(part.loss for episode in episodes for part in episode)
            / sum(window.total_weight for window in windows),
        )

    @override
    def save_state(self) -> bytes:
        assert self._adapter is not None
        stacked = stack_adapters(self._adapter)  # Its scale is 1, so the factors alone are the whole adapter.
        tensors = {f"past/{name}": tensor for name, tensor in self._strategy_state.items()}
        for layer, factors in stacked.items():
            tensors |= {f"a/{layer}": factors.a, f"b/{layer}": factors.b}
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})

    @override
    def load_state(self, saved: bytes) -> None:
        tensors = {name: tensor.to(self._base.device) for name, tensor in load(saved).items()}
        layers = [name.removeprefix("a/") for name in tensors if name.startswith("a/")]
        self._adapter = {layer: Factors(tensors[f"a/{layer}"], tensors[f"b/{layer}"]) for layer in layers}
        self._strategy_state = {
            name.removeprefix("past/"): t for name, t in tensors.items() if name.startswith("past/")
        }
