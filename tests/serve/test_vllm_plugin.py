"""What the plugin puts in place of vLLM's own."""

import pytest
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.attention.backends import cpu_attn
from vllm.v1.worker import lora_model_runner_mixin

from looper.serve.vllm_plugin import register


@pytest.mark.parametrize(("chosen", "taken"), [("amx", "vec"), ("vec16", "vec16")])
def test_attention_is_never_by_amx(chosen: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuPlatform, "get_punica_wrapper", CpuPlatform.get_punica_wrapper)
    loras = lora_model_runner_mixin.LRUCacheWorkerLoRAManager
    monkeypatch.setattr(lora_model_runner_mixin, "LRUCacheWorkerLoRAManager", loras)
    monkeypatch.setattr(cpu_attn, "_get_attn_isa", lambda *_: chosen)
    register()
    assert cpu_attn._get_attn_isa() == taken
