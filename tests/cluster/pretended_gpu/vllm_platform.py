"""A platform of vLLM: a CPU that Ray counts as a GPU. To vLLM it is a CPU, to Looper a GPU."""

import sys
from typing import Any

from vllm.platforms.cpu import CpuPlatform

MEMORY_BYTES = 2**28
"""Memory of the simulated GPU."""


def name_platform() -> str:
    """Return where the platform is. vLLM calls it by its entry point."""
    return f"{__name__}.{PretendedGpuPlatform.__name__}"


class PretendedGpuPlatform(CpuPlatform):  # type: ignore[misc]
    """vLLM's platform of CPUs, with what its executor on Ray needs."""

    ray_device_key = "GPU"

    def is_cpu(self) -> bool:
        return not sys._getframe(1).f_globals["__name__"].startswith("looper.")

    @classmethod
    def get_punica_wrapper(cls) -> str:
        # Not what Looper's plugin sets for CPUs: its kernel reads adapters in a layout that they have there only.
        return "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        super().check_and_update_config(vllm_config)
        cache = vllm_config.cache_config
        cache.kv_cache_memory_bytes = int(MEMORY_BYTES * cache.gpu_memory_utilization)
