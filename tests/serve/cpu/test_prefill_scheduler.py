"""vLLM's real scheduler, without an engine: which tokens are computed in which step."""

from pathlib import Path

import pytest
import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from looper.serve.cpu.prefill_scheduler import MIN_FULL_STEPS, MIN_RUNNING_SEQS, PriorityPrefillScheduler
from looper.serve.engine.admission import HIGH_PRIORITY, NORMAL_PRIORITY
from tests.tiny import tiny_base

BLOCK, MAX_NUM_SEQS, STEP_TOKENS = 32, MIN_RUNNING_SEQS + 2, 64


@pytest.fixture
def scheduler(tmp_path: Path) -> PriorityPrefillScheduler:
    model = ModelConfig(model=str(tiny_base(tmp_path)), dtype="float32")
    settings = SchedulerConfig(
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=STEP_TOKENS,
        max_model_len=2048,
        is_encoder_decoder=False,
        enable_chunked_prefill=True,
        policy="priority",
        async_scheduling=False,
    )
    config = VllmConfig(
        model_config=model,
        scheduler_config=settings,
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=False),
        device_config=DeviceConfig("cpu"),
    )
    blocks = 64
    config.cache_config.num_gpu_blocks = blocks
    heads = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.float32)
    return PriorityPrefillScheduler(
        config,
        KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], heads)]),
        StructuredOutputManager(config),
        block_size=BLOCK,
    )


def add_request(scheduler: PriorityPrefillScheduler, name: str, priority: int, tokens: int = 20) -> None:
    sampling = SamplingParams(max_tokens=100, ignore_eos=True)
    sampling.update_from_generation_config({}, eos_token_id=2)
    scheduler.add_request(Request(name, list(range(tokens)), sampling, None, priority=priority))


def step(scheduler: PriorityPrefillScheduler) -> dict[str, int]:
    """Run a step. Return the tokens computed per request. A request whose prompt is complete gets one token more."""
    scheduled: SchedulerOutput = scheduler.schedule()
    names = list(scheduled.num_scheduled_tokens)
    is_sampled = [not scheduler.requests[name].is_prefill_chunk for name in names]
    answer = ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: i for i, name in enumerate(names)},
        sampled_token_ids=[[7] if sampled else [] for sampled in is_sampled],
    )
    scheduler.update_from_output(scheduled, answer)
    return scheduled.num_scheduled_tokens


def start_running(scheduler: PriorityPrefillScheduler, size: int = MIN_RUNNING_SEQS) -> dict[str, int]:
    """Start so many running sequences. Return what a step computes for them."""
    for number in range(size):
        add_request(scheduler, str(number), NORMAL_PRIORITY)
    full_step = {str(number): 1 for number in range(size)}
    while step(scheduler) != full_step:
        pass
    for _ in range(MIN_FULL_STEPS):
        step(scheduler)
    return full_step


def test_a_high_priority_prompt_is_prefilled_alone_and_then_all_continue(scheduler: PriorityPrefillScheduler) -> None:
    full_step = start_running(scheduler)
    add_request(scheduler, "normal", NORMAL_PRIORITY)
    add_request(scheduler, "high", HIGH_PRIORITY)
    assert step(scheduler) == {"high": 20}
    assert step(scheduler) == full_step | {"high": 1, "normal": 20}
    assert step(scheduler) == full_step | {"high": 1, "normal": 1}


def test_high_priority_prompts_do_not_starve_running_sequences(
    scheduler: PriorityPrefillScheduler,
) -> None:
    full_step = start_running(scheduler)
    add_request(scheduler, "first", HIGH_PRIORITY)
    assert step(scheduler) == {"first": 20}
    add_request(scheduler, "second", HIGH_PRIORITY)
    for number in range(MIN_FULL_STEPS):
        assert step(scheduler).items() >= full_step.items(), number


def test_only_the_first_chunk_of_a_long_prompt_is_prefilled_alone(scheduler: PriorityPrefillScheduler) -> None:
    full_step = start_running(scheduler)
    add_request(scheduler, "long", HIGH_PRIORITY, tokens=100)
    assert step(scheduler) == {"long": STEP_TOKENS}
    assert step(scheduler) == full_step | {"long": 100 - STEP_TOKENS}


def test_with_few_running_sequences_or_a_full_batch_steps_are_vllm_s(scheduler: PriorityPrefillScheduler) -> None:
    few = start_running(scheduler, MIN_RUNNING_SEQS - 1)
    add_request(scheduler, "high", HIGH_PRIORITY)
    assert step(scheduler) == few | {"high": 20}
    for number in range(MIN_RUNNING_SEQS, MAX_NUM_SEQS):
        add_request(scheduler, str(number), NORMAL_PRIORITY)
    for _ in range(MIN_FULL_STEPS + 1):
        full = step(scheduler)
    assert len(full) == MAX_NUM_SEQS
    add_request(scheduler, "waits", HIGH_PRIORITY)
    assert step(scheduler) == full
