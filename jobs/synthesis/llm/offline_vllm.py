"""Sends requests to the base model itself, with vLLM's offline engine in this process.

``model_factory.open_model`` creates the engine in a Ray Data actor that keeps it. No endpoint is needed, and no data
leaves the machine. The judge is the model that the skills are trained on: its size limits how well it judges.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from looper.jobs.synthesis.llm.request import SEED, TEMPERATURE, LLMRequest

ACTOR_ENV_VARS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # runs the engine in the actor: one process to start and to stop
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_WAIT_POLICY": "PASSIVE",  # other work shares the cores: docs/decisions/0005
    "TORCHDYNAMO_DISABLE": "1",  # on CPU, vLLM would compile its sampler at the first request, with a C++ compiler
}
"""Environment variables for the actor's ``runtime_env``. They must be set before torch is imported."""

MAX_CONTEXT_TOKENS = 8_192
"""Maximum number of tokens of prompt and response together, if the base allows as many.

A long episode takes about 4,000 tokens.
"""

CPU_KV_CACHE_GIB = 2
"""Size of the KV cache of an engine on CPU, in GiB."""

CPU_MAX_NUM_SEQS = 8
"""``max_num_seqs`` of an engine on CPU."""


class OfflineEngine:
    """A ``Generate`` function. Its engine starts with the first request: a job with cached responses starts none."""

    def __init__(self, model_dir: Path) -> None:
        """Read the context length of the base model. The engine is not started yet.

        Args:
            model_dir: Folder of the base model.
        """
        self._model_dir = model_dir
        config = json.loads((model_dir / "config.json").read_text())
        self._max_model_len = min(MAX_CONTEXT_TOKENS, int(config.get("max_position_embeddings", MAX_CONTEXT_TOKENS)))

    def __call__(self, requests: Sequence[LLMRequest]) -> list[str | None]:
        """Generate the responses to a batch of requests.

        Args:
            requests: The requests.

        Returns:
            The response to each request, or None if its prompt does not fit into the context.
        """
        if not requests:
            return []
        from vllm import SamplingParams

        responses: list[str | None] = [None] * len(requests)
        prompts = [self._tokenize(request) for request in requests]
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) < self._max_model_len]
        outputs = self._engine.generate(
            [{"prompt_token_ids": prompts[index]} for index in fitting],
            [
                SamplingParams(temperature=TEMPERATURE, seed=SEED, max_tokens=requests[index].max_tokens)
                for index in fitting
            ],
            use_tqdm=False,
        )
        for index, output in zip(fitting, outputs, strict=True):
            responses[index] = output.outputs[0].text
        return responses

    def _tokenize(self, request: LLMRequest) -> list[int]:
        """Apply the base's chat template.

        The length must be known here: vLLM would refuse a whole batch because of one prompt that is too long.
        """
        tokenizer = self._engine.get_tokenizer()
        text = tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def _engine(self) -> Any:
        import torch
        from vllm import LLM

        return LLM(
            str(self._model_dir),
            max_model_len=self._max_model_len,
            seed=SEED,
            distributed_executor_backend="uni",  # in a Ray actor, vLLM would choose its Ray backend
            **({} if torch.cuda.is_available() else _cpu_arguments()),
        )


def _cpu_arguments() -> dict[str, Any]:
    """Return the engine arguments for CPUs. Without units for bfloat16 it is emulated and slow: docs/decisions/0013."""
    return {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": CPU_KV_CACHE_GIB * 2**30,
        "max_num_seqs": CPU_MAX_NUM_SEQS,
    }
