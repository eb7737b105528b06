"""Asks the base model itself: vLLM in this process, a batch at a time. For an actor of Ray Data that keeps it.

No endpoint is needed, and nothing leaves the machine. The base is what the skills are trained on, and no better judge
than its size lets it be.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from looper.jobs.synthesis.llm.request import SEED, TEMPERATURE, LLMRequest

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the actor: one process to start, and to end
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_WAIT_POLICY": "PASSIVE",  # other work shares the cores: docs/decisions/0005
    "TORCHDYNAMO_DISABLE": "1",  # on CPU, vLLM would compile its sampler at the first request, with a C++ compiler
}
"""Of the actor's ``runtime_env``: it must be in place before torch is imported."""

CONTEXT = 8_192
"""Tokens of question and answer together, if the base takes so many: a long episode takes some 4,000."""

KV_CACHE_GIB = 2
"""Of a CPU engine."""

SEQUENCES = 8
"""In one batch of the engine on CPU."""


class OfflineEngine:
    """An ``Ask`` whose engine starts with the first question: what is remembered needs none."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        stated = json.loads((model_dir / "config.json").read_text()).get("max_position_embeddings", CONTEXT)
        self._context = min(CONTEXT, int(stated))

    def __call__(self, requests: Sequence[LLMRequest]) -> list[str | None]:
        """None for what does not fit into the context."""
        if not requests:
            return []
        from vllm import SamplingParams

        answers: list[str | None] = [None] * len(requests)
        prompts = [self._tokens(request) for request in requests]
        fitting = [place for place, prompt in enumerate(prompts) if len(prompt) < self._context]
        outputs = self._engine.generate(
            [{"prompt_token_ids": prompts[place]} for place in fitting],
            [
                SamplingParams(temperature=TEMPERATURE, seed=SEED, max_tokens=requests[place].max_tokens)
                for place in fitting
            ],
            use_tqdm=False,
        )
        for place, output in zip(fitting, outputs, strict=True):
            answers[place] = output.outputs[0].text
        return answers

    def _tokens(self, request: LLMRequest) -> list[int]:
        """Through the base's own chat template. vLLM would refuse the whole batch for one that is too long."""
        tokenizer = self._engine.get_tokenizer()
        text = tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def _engine(self) -> Any:
        import torch
        from vllm import LLM

        return LLM(
            str(self._model_dir),
            max_model_len=self._context,
            seed=SEED,
            distributed_executor_backend="uni",  # in an actor, vLLM would take Ray's
            **({} if torch.cuda.is_available() else _on_cpu()),
        )


def _on_cpu() -> dict[str, Any]:
    """bfloat16 is emulated, and slower, on CPUs without units for it: docs/decisions/0013."""
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": KV_CACHE_GIB * 2**30,
        "max_num_seqs": SEQUENCES,
    }
