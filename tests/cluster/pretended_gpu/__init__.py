"""A cluster that takes its CPU for a GPU: Ray counts one, engines and trainers take their branches for GPUs.

``environment`` has all that a process and its descendants need for that. Looper knows nothing of it: Ray, Ray Train and
vLLM have ways in for others' resources, callbacks and platforms.
"""

import json
import os
from pathlib import Path

from tests.cluster.pretended_gpu.trainer import PretendGpu
from tests.cluster.pretended_gpu import platform

ROOT = Path(__file__).parents[3]

def environment(folder: Path, *, type: str = "A100") -> dict[str, str]:
    """Return environment variables with which Ray has one GPU of the given type.

    Args:
        folder: An empty folder, for the metadata by which vLLM finds its platform.
        type: The type, as Ray writes it.
    """
    metadata = folder / "pretended_gpu-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-gpu\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        f"[vllm.platform_plugins]\npretended_gpu = {platform.__name__}:{platform.name_platform.__name__}\n"
    )
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": 1, f"accelerator_type:{type}": 1}),
        "RAY_TRAIN_CALLBACKS": f"{PretendGpu.__module__}.{PretendGpu.__name__}",
        # vLLM would compile its sampler with a C++ compiler. An engine on a CPU sets it too.
        "TORCHDYNAMO_DISABLE": "1",
    }
