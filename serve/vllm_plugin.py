"""What Looper puts in place of vLLM's own, in every process of vLLM: an entry point in the group of its plugins."""

from typing import Any

import torch


def register() -> None:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl
    from vllm.v1.worker import lora_model_runner_mixin

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
