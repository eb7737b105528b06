"""What Looper puts in place of vLLM's own, in every process of vLLM: an entry point in the group of its plugins."""

from typing import Any


def register() -> None:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.attention.backends import cpu_attn
    from vllm.v1.worker import lora_model_runner_mixin

    from looper.serve.staging import StagedLoras

    CpuPlatform.get_punica_wrapper = classmethod(lambda _: "looper.serve.cpu_lora.TiledLora")
    lora_model_runner_mixin.LRUCacheWorkerLoRAManager = StagedLoras

    units = cpu_attn._get_attn_isa

    def without_amx(*arguments: Any, **more: Any) -> str:
        """Attention by AMX (vLLM 0.29) dies of an illegal instruction now and then; linear layers do not."""
        chosen: str = units(*arguments, **more)
        return "vec" if chosen == "amx" else chosen

    cpu_attn._get_attn_isa = without_amx
