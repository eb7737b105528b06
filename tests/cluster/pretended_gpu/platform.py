"""A platform of vLLM: to vLLM a CPU that Ray counts as a GPU, to Looper a GPU."""

import sys
from typing import Any

from vllm.platforms.cpu import CpuPlatform

MEMORY_BYTES = 2**28
"""Memory of the pretended GPU."""


def name_platform() -> str:
    """Return the name of the platform's class. vLLM calls it: see the entry point in this package."""
    return f"{__name__}.{PretendedGpuPlatform.__name__}"


class PretendedGpuPlatform(CpuPlatform):
    ray_device_key = "GPU"

    def is_cpu(self) -> bool:
        return not sys._getframe(1).f_globals["__name__"].startswith("looper.")

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        super().check_and_update_config(vllm_config)
        cache = vllm_config.cache_config
        cache.kv_cache_memory_bytes = int(MEMORY_BYTES * cache.gpu_memory_utilization)
