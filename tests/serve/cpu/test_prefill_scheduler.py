"""vLLM's real scheduler, without an engine: what is read and computed in which step."""

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

from looper.serve.cpu.prefill_scheduler import CROWD, STEPS_OF_ALL, PriorityPrefillScheduler
from looper.serve.engine.admission import HIGH_PRIORITY, NORMAL_PRIORITY
from tests.tiny import tiny_base

BLOCK, SEATS, STEP_TOKENS = 32, CROWD + 2, 64


@pytest.fixture
def scheduler(tmp_path: Path) -> PriorityPrefillScheduler:
    model = ModelConfig(model=str(tiny_base(tmp_path)), dtype="float32")
    settings = SchedulerConfig(
        max_num_seqs=SEATS,
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


def ask(scheduler: PriorityPrefillScheduler, name: str, priority: int, tokens: int = 20) -> None:
    sampling = SamplingParams(max_tokens=100, ignore_eos=True)
    sampling.update_from_generation_config({}, eos_token_id=2)
    scheduler.add_request(Request(name, list(range(tokens)), sampling, None, priority=priority))


def step(scheduler: PriorityPrefillScheduler) -> dict[str, int]:
    """Tokens that are computed of each request; those that are at their end have one more then."""
    scheduled: SchedulerOutput = scheduler.schedule()
    names = list(scheduled.num_scheduled_tokens)
    done = [not scheduler.requests[name].is_prefill_chunk for name in names]
    answer = ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: at for at, name in enumerate(names)},
        sampled_token_ids=[[7] if each else [] for each in done],
    )
    scheduler.update_from_output(scheduled, answer)
    return scheduled.num_scheduled_tokens


def crowd(scheduler: PriorityPrefillScheduler, size: int = CROWD) -> dict[str, int]:
    """Requests that are being answered, and what a step of them is."""
    for number in range(size):
        ask(scheduler, str(number), NORMAL_PRIORITY)
    of_all = {str(number): 1 for number in range(size)}
    while step(scheduler) != of_all:
        pass
    for _ in range(STEPS_OF_ALL):
        step(scheduler)
    return of_all


def test_who_is_ahead_is_read_alone_and_then_all_go_on(scheduler: PriorityPrefillScheduler) -> None:
    of_all = crowd(scheduler)
    ask(scheduler, "in turn", NORMAL_PRIORITY)
    ask(scheduler, "ahead", HIGH_PRIORITY)
    assert step(scheduler) == {"ahead": 20}
    assert step(scheduler) == of_all | {"ahead": 1, "in turn": 20}
    assert step(scheduler) == of_all | {"ahead": 1, "in turn": 1}


def test_others_do_not_stand_still_while_one_after_another_is_ahead(scheduler: PriorityPrefillScheduler) -> None:
    of_all = crowd(scheduler)
    ask(scheduler, "first", HIGH_PRIORITY)
    assert step(scheduler) == {"first": 20}
    ask(scheduler, "second", HIGH_PRIORITY)
    for number in range(STEPS_OF_ALL):
        assert step(scheduler).items() >= of_all.items(), number


def test_a_long_prompt_is_read_with_the_others_after_its_beginning(scheduler: PriorityPrefillScheduler) -> None:
    of_all = crowd(scheduler)
    ask(scheduler, "long", HIGH_PRIORITY, tokens=100)
    assert step(scheduler) == {"long": STEP_TOKENS}
    assert step(scheduler) == of_all | {"long": 100 - STEP_TOKENS}


def test_beside_few_or_where_all_seats_are_taken_nothing_is_changed(scheduler: PriorityPrefillScheduler) -> None:
    few = crowd(scheduler, CROWD - 1)
    ask(scheduler, "ahead", HIGH_PRIORITY)
    assert step(scheduler) == few | {"ahead": 20}
    for number in range(CROWD, SEATS):
        ask(scheduler, str(number), NORMAL_PRIORITY)
    for _ in range(STEPS_OF_ALL + 1):
        full = step(scheduler)
    assert len(full) == SEATS
    ask(scheduler, "no seat", HIGH_PRIORITY)
    assert step(scheduler) == full
