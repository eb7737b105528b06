"""What Looper puts in place of vLLM's own, in every process of vLLM: an entry point in the group of its plugins."""


def register() -> None:
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.worker import lora_model_runner_mixin

    from looper.serve.staging import StagedLoras

    CpuPlatform.get_punica_wrapper = classmethod(lambda _: "looper.serve.cpu_lora.TiledLora")
    lora_model_runner_mixin.LRUCacheWorkerLoRAManager = StagedLoras
