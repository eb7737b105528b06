"""Environment variables with which a process and its descendants take their CPU for a GPU.

Imports neither vLLM nor Ray: the processes that import the rest of this package are others.
"""

import json
import os
from pathlib import Path

PACKAGE = __name__.rpartition(".")[0]
ROOT = Path(__file__).parents[3]

ENTRY_POINTS = f"[vllm.platform_plugins]\npretended_gpu = {PACKAGE}.vllm_platform:name_platform\n"


def pretend_gpu(folder: Path) -> dict[str, str]:
    """Return the variables.

    Args:
        folder: A folder that does not exist, for the metadata by which vLLM finds its platform.
    """
    metadata = folder / "pretended_gpu-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-gpu\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": 1, "accelerator_type:A100": 1}),
        "RAY_TRAIN_CALLBACKS": f"{PACKAGE}.train_callback.PretendGpu",
        # vLLM would compile its sampler with a C++ compiler. Looper's engines on a CPU set this, too.
        "TORCHDYNAMO_DISABLE": "1",
    }
