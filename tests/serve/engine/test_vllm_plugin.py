"""The plugin's replacements in vLLM, in a separate process, because they cannot be undone."""

import subprocess
import sys

ATTENTION = """
import torch
from vllm import _custom_ops as ops
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl, _get_attn_isa

from looper.serve.engine.engine_arguments import has_amx_bfloat16

current_platform.import_kernels()
load_general_plugins()

HEADS, WIDE, BLOCK = 2, 32, 32
dtype = torch.bfloat16 if has_amx_bfloat16() else torch.float32

class Layer:
    isa = _get_attn_isa(dtype, BLOCK, WIDE)
    _k_scale_float = _v_scale_float = 1.0

attention = CPUAttentionBackendImpl(HEADS, WIDE, 1.0, HEADS, None, None, "auto")
cache = torch.zeros(1, HEADS, BLOCK, 2 * WIDE, dtype=dtype)
for tokens, number in ((BLOCK, torch.nan), (BLOCK, torch.inf), (3, 1.0)):
    some = torch.full((tokens, HEADS, WIDE), number, dtype=dtype)
    attention.do_kv_cache_update(Layer, some, some, cache, torch.arange(tokens))

key, value = cache.view(1, HEADS, 2 * BLOCK, WIDE).chunk(2, dim=2)
starts, lengths = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
plan = ops.cpu_attn_get_scheduler_metadata(1, HEADS, HEADS, WIDE, lengths, dtype, starts, True, -1, Layer.isa, True)
out = torch.empty(1, HEADS, WIDE, dtype=dtype)
table = torch.zeros(1, 1, dtype=torch.int32)
ops.cpu_attention_with_kv_cache(
    out.clone().fill_(1), key, value, out, starts, lengths, 1.0, True, None, -1, table, 0.0, plan, None
)
assert (out == 1).all(), out
"""


def test_values_that_an_earlier_request_left_in_a_block_do_not_reach_attention() -> None:
    """This includes AMX where the CPU has it, in a process that has not requested it from Linux."""
    result = subprocess.run([sys.executable, "-c", ATTENTION], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
