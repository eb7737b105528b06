"""Replaces parts of vLLM (0.29) with Looper's in every process of vLLM.

vLLM calls ``register`` in each of its processes: it is an entry point in the group ``vllm.general_plugins``.
"""

from typing import Any

import numpy as np
import torch


def register() -> None:
    """Install Looper's LoRA kernel, adapter staging and compilation of grammars, and three fixes that vLLM needs."""
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.worker import lora_model_runner_mixin

    from looper.serve.cache.staging import StagingLoRAManager
    from looper.serve.engine import grammar_plugin

    CpuPlatform.get_punica_wrapper = classmethod(lambda _: "looper.serve.cpu.lora_layers.TiledPunicaWrapper")
    lora_model_runner_mixin.LRUCacheWorkerLoRAManager = StagingLoRAManager

    # Linux kills a process that uses AMX without having requested it. vLLM's attention relies on oneDNN for that, but
    # oneDNN requests it only when a matrix product is large enough for AMX.
    torch.cpu._init_amx()

    grammar_plugin.install()
    _keep_nan_out_of_kv_cache()
    _reject_unknown_token_ids()
    _sample_after_prefill_only()


def _keep_nan_out_of_kv_cache() -> None:
    """Replace NaN and infinite values before they are written to the KV cache.

    vLLM's attention multiplies what an earlier request left in a block by zero, and NaN times zero is NaN.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    vllm_update = CPUAttentionBackendImpl.do_kv_cache_update

    def update_with_finite_values(self: Any, layer: Any, key: torch.Tensor, value: torch.Tensor, *args: Any) -> None:
        vllm_update(self, layer, key, torch.nan_to_num(value), *args)

    CPUAttentionBackendImpl.do_kv_cache_update = update_with_finite_values


def _reject_unknown_token_ids() -> None:
    """Reject token ids that the model has no embedding for: looking one up ends the engine, or finds padding.

    vLLM accepts all ids that the tokenizer knows, and one more. A tokenizer may know more ids than its model.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    vllm_validate = InputProcessor._validate_model_input

    def validate_token_ids(self: Any, prompt_input: Any, prompt_type: str) -> None:
        vllm_validate(self, prompt_input, prompt_type)
        vocab_size = self.model_config.get_vocab_size()
        if prompt_input["type"] == "token" and (unknown := max(prompt_input["prompt_token_ids"])) >= vocab_size:
            raise VLLMValidationError(
                f"token id {unknown} of the prompt is not in the vocabulary (0 to {vocab_size - 1})"
            )

    InputProcessor._validate_model_input = validate_token_ids


def _sample_after_prefill_only() -> None:
    """Use a request's random generator only in steps that complete its prompt or follow it.

    vLLM draws from the generators of all requests in each step, and then resets those of requests whose prompt is not
    complete. A CPU generator cannot be reset that way.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    vllm_sample = CPUModelRunner.sample_tokens

    def sample_complete_prompts(self: Any, grammar_output: Any) -> Any:
        generators, rows = self.input_batch.generators, self.input_batch.num_reqs
        incomplete_rows = np.flatnonzero(self.discard_request_mask.np[:rows]).tolist()
        removed = {row: generators.pop(row) for row in incomplete_rows if row in generators}
        try:
            return vllm_sample(self, grammar_output)
        finally:
            generators.update(removed)

    CPUModelRunner.sample_tokens = sample_complete_prompts
