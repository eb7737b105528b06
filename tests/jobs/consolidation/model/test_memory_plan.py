"""The memory that is planned is the memory that is used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen3Config

from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.memory_plan import MemoryPlan, PassChoice, PassMemory, choose_pass, plan_memory
from looper.platform.domain.recipe import Recipe
from tests.architectures import llama_config
from tests.tiny import FLOAT32

GIB = 2**30
ON_GPU = Device(torch.device("cuda"), torch.bfloat16, 8192, torch.bfloat16)
RECIPE = Recipe(method="lora", strategy="none")

MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
import psutil
import torch
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training.fused_step import compute_losses_and_gradients
from looper.jobs.consolidation.training.session_setup import start_session
from looper.jobs.consolidation.training.single_process_group import single_process_group
from looper.platform.domain.recipe import Recipe
from tests.tiny import FLOAT32

folder, tenants, length, recomputes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True"
recipe = Recipe(method="lora", strategy="none", batch_size=1)
half = length // 2
windows = [
    Window((np.arange(length) + i).astype(np.int32), np.repeat(np.float32([0, 1]), [half, length - half]), ())
    for i in range(tenants)
]
with single_process_group():
    before = psutil.Process().memory_info().rss
    base = SharedBase(folder, FLOAT32)
    base.max_tokens_per_pass, base.recomputes = 10**6, recomputes
    sessions = [start_session(base, recipe, [window], None, {}, []) for window in windows]
    Path("/proc/self/clear_refs").write_text("5")  # the highest use counts from here
    for _ in range(2):
        for session, (loss, gradients) in zip(sessions, compute_losses_and_gradients(base, sessions)):
            session.take_step(loss, gradients)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps(int(peak.split()[1]) * 1024 - before))
"""


def test_llama_3_1_8b_takes_what_was_reckoned_by_hand(tmp_path: Path) -> None:
    """50 GiB for the activations of 8,192 tokens, and 82 GiB with 16 tenants."""
    llama_config(4096, 14336, 32, 32, 8, 128_256).save_pretrained(tmp_path)
    plan = plan_memory(tmp_path, RECIPE, ON_GPU)
    assert plan.base / GIB == pytest.approx(15, rel=0.01)
    assert plan.peak(16, 8192) / GIB == pytest.approx(80, rel=0.1)
    assert plan.peak(16, 8192, recomputes=True) / GIB == pytest.approx(32, rel=0.1)
    assert plan.logits_at_once < GIB, "the logits of all targets would take 2 GiB, and their loss 6"


def test_activations_are_computed_again_where_passes_would_be_short() -> None:
    plan = MemoryPlan(100, 10, PassMemory(0.1, 0.2), PassMemory(0.01, 0.05), logits=0.02, logits_at_once=2)
    assert plan.peak(2, 50) == 100 + 20 + 50 * 0.2
    assert plan.peak(2, 50, recomputes=True) == 100 + 20 + 50 * 0.05
    assert MemoryPlan(0, 0, PassMemory(1, 1), PassMemory(1, 1), 1, 10).peak(1, 100) == 100 + 10
    assert MemoryPlan(0, 0, PassMemory(1, 1), PassMemory(1, 1), 1, 10).fitting_tokens(110, 1) == 100
    assert MemoryPlan(0, 0, PassMemory(1, 1), PassMemory(1, 1), 1, 10).fitting_tokens(10, 1) == 5
    assert choose_pass(plan, 120 + 0.2 * 8192, 2, 8192) == PassChoice(8192, recomputes=False)
    assert choose_pass(plan, 120 + 0.2 * 4096, 2, 8192) == PassChoice(4096, recomputes=False)
    assert choose_pass(plan, 120 + 0.2 * 4095, 2, 8192) == PassChoice(8192, recomputes=True)
    assert choose_pass(plan, 120 + 0.05 * 3000, 2, 8192) == PassChoice(3000, recomputes=True)
    assert choose_pass(plan, 120 + 0.2 * 320, 2, 320) == PassChoice(320, recomputes=False)
    assert choose_pass(plan, 90, 2, 8192).tokens <= 0


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("recomputes", [False, True], ids=["keeping", "recomputing"])
@pytest.mark.parametrize(
    ("config", "tenants", "length"),
    [
        (llama_config(576, 1536, 30, 9, 3, 49_152), 1, 1024),
        (llama_config(1024, 2816, 16, 16, 4, 32_000), 8, 256),
        (
            Qwen3Config(
                hidden_size=1024,
                intermediate_size=3072,
                num_hidden_layers=14,
                num_attention_heads=16,
                num_key_value_heads=8,
                head_dim=128,
                vocab_size=64_000,
            ),
            4,
            512,
        ),
    ],
    ids=["135M", "many tenants", "Qwen3"],
)
def test_the_plan_is_within_15_percent_of_the_peak(
    config: PreTrainedConfig, tenants: int, length: int, recomputes: bool, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), *map(str, (tenants, length, recomputes))]
    # Without the gaps that the allocator keeps: tensors are mapped, and unmapped when they are freed.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    measured = json.loads(output.splitlines()[-1])  # DeepSpeed writes before it
    planned = plan_memory(tmp_path, RECIPE, FLOAT32).peak(tenants, tenants * length, recomputes)
    print(f"planned {planned / GIB:.2f} GiB, measured {measured / GIB:.2f} GiB, ratio {planned / measured:.2f}")
    assert planned == pytest.approx(measured, rel=0.15)
