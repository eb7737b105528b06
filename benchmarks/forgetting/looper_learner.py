"""The learner that Looper is: an instance's sessions on the trainer's own step, without queue and store around it."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load, save

from looper.benchmarks.forgetting.learner import Score
from looper.benchmarks.forgetting.plan import ForgettingRun
from looper.jobs.consolidation.adapters.lora import Factors, Lora, stack
from looper.jobs.consolidation.data.encode import Window, encode
from looper.jobs.consolidation.evaluation.teacher_forcing import judge_each
from looper.jobs.consolidation.model.device import pick_device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.strategies.strategy import State
from looper.jobs.consolidation.training.fused_step import losses_and_gradients
from looper.jobs.consolidation.training.session import begin
from looper.platform.domain.consolidation import Recipe
from looper.platform.domain.example import Example


class LooperLearner:
    """One instance on the base model of ``model_dir``. Needs torch.distributed, as ``alone`` sets it up."""

    def __init__(self, model_dir: Path, max_rank: int) -> None:
        self._base = SharedBase(model_dir, pick_device())
        self._max_rank = max_rank
        self._recipe = Recipe()
        self._version: Lora | None = None
        self._past: State = {}

    def begin(self, run: ForgettingRun) -> None:
        self._recipe, self._version, self._past = run.recipe, None, {}

    def learn(self, examples: Sequence[Example]) -> int:
        windows = [window for example in examples for window in self._encode(example)]
        tenant = begin(self._base, self._recipe, windows, self._version, self._past)
        while not tenant.done:
            ((loss, gradients),) = losses_and_gradients(self._base, [tenant])
            tenant.advance(loss, gradients)
        self._version, _ = tenant.finish(self._max_rank)
        self._past = tenant.strategy.remember(self._version)
        tenant.close()
        return tenant.step

    def judge(self, examples: Sequence[Example]) -> Score:
        apart = [self._encode(example) for example in examples]
        windows = [window for each in apart for window in each]
        judged = iter(judge_each(self._base, self._version, windows))
        episodes = [[next(judged) for _ in each] for each in apart]
        calls = [right for episode in episodes for part in episode for right in part.right]
        return Score(
            episodes=len(episodes),
            solved=sum(all(part.exact for part in episode) for episode in episodes),
            calls=len(calls),
            right=sum(calls),
            loss=sum(part.loss for episode in episodes for part in episode) / sum(sum(w.weights) for w in windows),
        )

    def save(self) -> bytes:
        assert self._version is not None
        version = stack(self._version)  # of scale 1
        tensors = {f"past/{name}": tensor for name, tensor in self._past.items()}
        for layer, factors in version.items():
            tensors |= {f"a/{layer}": factors.a, f"b/{layer}": factors.b}
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})

    def load(self, saved: bytes) -> None:
        tensors = {name: tensor.to(self._base.device) for name, tensor in load(saved).items()}
        layers = [name.removeprefix("a/") for name in tensors if name.startswith("a/")]
        self._version = {layer: Factors(tensors[f"a/{layer}"], tensors[f"b/{layer}"]) for layer in layers}
        self._past = {name.removeprefix("past/"): t for name, t in tensors.items() if name.startswith("past/")}

    def _encode(self, example: Example) -> list[Window]:
        return encode(example, self._base.tokenizer, self._recipe.max_seq_length)
