"""What Looper puts in place of vLLM's own, in every process of vLLM: an entry point in the group of its plugins."""

from typing import Any

import numpy as np
import torch


def register() -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker import lora_model_runner_mixin
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from looper.serve.staging import StagedLoras

    CpuPlatform.get_punica_wrapper = classmethod(lambda _: "looper.serve.cpu_lora.TiledLora")
    lora_model_runner_mixin.LRUCacheWorkerLoRAManager = StagedLoras

    # Linux ends a process that uses AMX and has not asked for it. vLLM's attention relies on oneDNN having asked, which
    # does so when a product is large enough for AMX.
    torch.cpu._init_amx()

    update = CPUAttentionBackendImpl.do_kv_cache_update

    def finite(self: Any, layer: Any, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> None:
        """Keep values that are no numbers out of the cache.

        vLLM's attention (0.29) multiplies what an earlier request left in a block by zero, and NaN stays NaN.
        """
        update(self, layer, key, torch.nan_to_num(value), *rest)

    CPUAttentionBackendImpl.do_kv_cache_update = finite

    validate = InputProcessor._validate_model_input

    def validate_known(self: Any, prompt_input: Any, prompt_type: str) -> None:
        """Refuse token ids that the model has no embedding for: to look one up ends the engine, or finds padding.

        vLLM (0.29) takes any that the tokenizer knows, and one more. A tokenizer may know more than its model.
        """
        validate(self, prompt_input, prompt_type)
        vocab_size = self.model_config.get_vocab_size()
        if prompt_input["type"] == "token" and (unknown := max(prompt_input["prompt_token_ids"])) >= vocab_size:
            reason = f"the prompt has token {unknown}, which this model does not know: ids go to {vocab_size - 1}"
            raise VLLMValidationError(reason)

    InputProcessor._validate_model_input = validate_known

    sample = CPUModelRunner.sample_tokens

    def sample_read(self: Any, grammar_output: Any) -> Any:
        """Draw from a request's own generator only once its prompt has been read to the end.

        vLLM (0.29) draws in each step, and then turns the generator back, which a CPU's cannot.
        """
        generators, rows = self.input_batch.generators, self.input_batch.num_reqs
        still_reading = np.flatnonzero(self.discard_request_mask.np[:rows]).tolist()
        kept = {row: generators.pop(row) for row in still_reading if row in generators}
        try:
            return sample(self, grammar_output)
        finally:
            generators.update(kept)

    CPUModelRunner.sample_tokens = sample_read
