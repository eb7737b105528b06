"""The base model that trainers share: the check of its attention with a real model."""

import pytest
import torch

from looper.basemodel import BUNDLED, prepare
from looper.jobs.consolidation.model.device import CPU_TOKENS_PER_PASS, Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.settings import Settings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_real_base_passes_its_check(dtype: torch.dtype) -> None:
    """In bfloat16, tokens that never follow each other gave logits that were off by 13 % on a CPU with AMX."""
    folder = prepare(BUNDLED, Settings().models_dir)
    SharedBase(folder, Device(torch.device("cpu"), dtype, CPU_TOKENS_PER_PASS))
