"""Tests of the ablation of synthesis: the noise, the variants, the live evaluation, and the run from plan to report."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from looper.benchmarks.synthesis.ablation.batch_generator import BatchGenerator
from looper.benchmarks.synthesis.ablation.bench import (
    AblationRow,
    AblationTrainer,
    digest_examples,
    list_task_ids,
    load_rows,
    plan_ablation,
    run_variants,
)
from looper.benchmarks.synthesis.ablation.learned_calls import LearnedCalls, measure_learned_calls
from looper.benchmarks.synthesis.ablation.live_evaluation import (
    LiveResult,
    evaluate_live,
    has_repeated_call,
    parse_answer,
)
from looper.benchmarks.synthesis.ablation.noisy_agent import FAILURE_RATE, play_careless_agent
from looper.benchmarks.synthesis.ablation.report import build_report, to_markdown
from looper.benchmarks.synthesis.ablation.variants import DISABLED_STAGES, FULL, SUCCESSES_ONLY, build_examples
from looper.gym.generate import RecordedEpisode
from looper.gym.policies import run_expert
from looper.gym.workplaces import DISPATCH
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.example import Example
from looper.platform.domain.recipe import Recipe
from looper.platform.trajectories.readers.openai_chat import READER
from tests.tiny import FLOAT32, tiny_base

NOISY = play_careless_agent(DISPATCH, list_task_ids(held_out=False)[:20], seed=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def test_the_careless_agent_is_deterministic() -> None:
    assert play_careless_agent(DISPATCH, list_task_ids(held_out=False)[:20], seed=0) == NOISY
    assert play_careless_agent(DISPATCH, list_task_ids(held_out=False)[:20], seed=1) != NOISY


def test_the_careless_agent_fails_a_bit_less_than_the_failure_rate() -> None:
    # Some failures count as successes, because only the messages of the episode are judged.
    many = play_careless_agent(DISPATCH, list_task_ids(held_out=False)[:200], seed=0)
    failed = sum(not episode.outcome.success for episode in many) / len(many)
    assert FAILURE_RATE - 0.2 < failed < FAILURE_RATE


def test_successes_end_with_a_message() -> None:
    assert all(each.steps[-1].content == "done" for each in NOISY if each.outcome.success)


def test_held_out_tasks_are_not_trained_on() -> None:
    assert not {each.task_id for each in NOISY} & set(list_task_ids(held_out=True))


def test_successes_only_keeps_all_successes_unchanged() -> None:
    kept = build_examples(SUCCESSES_ONLY, NOISY)
    assert len(kept) == sum(each.outcome.success is True for each in NOISY)
    assert {turn.weight for each in kept for turn in each.turns if turn.role == "assistant"} == {1.0}
    assert any(map(_has_repeated_call, kept))


def test_the_whole_pipeline_removes_repeated_calls() -> None:
    kept = build_examples(FULL, NOISY)
    assert kept
    assert not any(map(_has_repeated_call, kept))


def test_every_stage_can_be_disabled() -> None:
    digests = {variant: digest_examples(build_examples(variant, NOISY)) for variant in DISABLED_STAGES}
    changed = {variant for variant, digest in digests.items() if digest != digests[FULL]}
    assert {"full without prune", "full without credit", "full without duplicates", "full without errors"} <= changed


def test_a_repeated_call_has_the_same_arguments_and_the_same_answer() -> None:
    open_call, other_call = _call_message("open", ref="HD-1"), _call_message("open", ref="HD-2")
    assert has_repeated_call([open_call, _tool_message("opened"), open_call, _tool_message("opened")])
    assert not has_repeated_call([open_call, _tool_message("E_TIMEOUT"), open_call, _tool_message("opened")])
    assert not has_repeated_call(
        [open_call, _tool_message("opened"), other_call, _tool_message("opened"), open_call, _tool_message("opened")]
    )
    assert not has_repeated_call([{"role": "assistant", "content": "done"}, {"role": "assistant", "content": "done"}])


def test_answers_are_parsed_as_those_of_the_served_skill() -> None:
    call = '<tool_call>\n{"name": "open", "arguments": {"ref": "HD-1"}}\n</tool_call>'
    (tool_call,) = parse_answer(call, 2)["tool_calls"]
    function = tool_call["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("open", {"ref": "HD-1"})
    assert "tool_calls" not in parse_answer("done", 2)
    assert "tool_calls" not in parse_answer(call.replace("}}", "}"), 2)


@torch.no_grad()
def test_batched_rows_generate_what_each_generates_alone(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    user_turns = [[list(range(10, 20)), list(range(30, 34))], [list(range(50, 57)), list(range(40, 49))]]
    generator = BatchGenerator(base, None, tokenizer, rows=2)
    histories: list[list[int]] = [[], []]
    for new_tokens in zip(*user_turns, strict=True):
        answers = generator.generate(new_tokens)
        for history, new, answer in zip(histories, new_tokens, answers, strict=True):
            history += new
            alone = model.generate(torch.tensor([history]), max_new_tokens=64, do_sample=False)[0, len(history) :]
            assert tokenizer.decode(alone) == answer
            history += alone.tolist()


@pytest.mark.usefixtures("one_process")
def test_a_variant_is_trained_and_evaluated(base: Path) -> None:
    recipe = Recipe(strategy="none", rank=2, max_steps=2, max_seq_length=1024)
    trainer = AblationTrainer(base, SharedBase(base, FLOAT32), recipe, held_out_tasks=3)
    row = trainer.train_and_evaluate(FULL, 0, build_examples(FULL, NOISY)[:8])
    assert (row.lived.episodes, row.examples) == (3, 8)
    assert row.tokens > row.learned > 0


def test_batched_tasks_take_as_many_turns_as_each_alone(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tasks = [DISPATCH.task(task_id, seed=0) for task_id in list_task_ids(held_out=True)[:3]]
    batched = evaluate_live(base, None, tokenizer, tasks)
    assert batched.episodes == 3
    assert batched.turns == sum(evaluate_live(base, None, tokenizer, [task]).turns for task in tasks)


def test_existing_results_are_kept_and_identical_examples_are_trained_once(tmp_path: Path) -> None:
    evaluated: list[str] = []

    def evaluate(variant: str, seed: int, examples: Sequence[Example]) -> AblationRow:
        evaluated.append(variant)
        return _row(variant, seed, digest_examples(examples), solved=9)

    planned = plan_ablation([0], [SUCCESSES_ONLY, FULL, "full without segment"])
    assert planned == [(SUCCESSES_ONLY, 0), (FULL, 0), ("full without segment", 0)]
    run_variants(tmp_path, planned, evaluate, print)
    assert evaluated == [SUCCESSES_ONLY, FULL]
    run_variants(tmp_path, planned, evaluate, print)
    assert len(evaluated) == 2
    assert {row.variant for row in load_rows(tmp_path)} == {variant for variant, _ in planned}


def test_the_compared_variants_come_first() -> None:
    assert {variant for variant, _ in plan_ablation([0, 1, 2])[:6]} == {SUCCESSES_ONLY, FULL}
    assert len(plan_ablation([0, 1, 2])) == 3 * len(DISABLED_STAGES)


def test_the_report_compares_the_pipeline_with_successes_only() -> None:
    report = build_report(
        [
            *(_row(FULL, seed, "a", solved=8 + seed, looped=0) for seed in range(3)),
            *(_row(SUCCESSES_ONLY, seed, "b", solved=5, looped=4) for seed in range(3)),
            _row("full without segment", 0, "a", solved=8),
        ],
        [0],
        "a test",
        "none",
    )
    assert report.ratios == {"success_points_over_successes_only": pytest.approx(40), "loops_over_successes_only": 0.0}
    (full,) = [row for row in report.rows if row.variant == FULL]
    assert full.success is not None
    assert (full.success.mean, full.success.sd) == (pytest.approx(0.9), pytest.approx(0.1))
    assert "full without segment: the same examples as full with seeds 0" in to_markdown(report)


def test_learned_calls_are_measured_without_training() -> None:
    expert = RecordedEpisode(task := DISPATCH.task("dispatch-000", seed=0), None, run_expert(task))
    right = build_examples(SUCCESSES_ONLY, [READER.to_trajectory(orjson.loads(expert.to_jsonl()))])
    assert measure_learned_calls(right, DISPATCH, seed=0) == LearnedCalls(wrong=0.0, repeated=0.0)
    successes, full = (
        measure_learned_calls(build_examples(variant, NOISY), DISPATCH, seed=0) for variant in (SUCCESSES_ONLY, FULL)
    )
    assert successes.wrong > successes.repeated > 0.1
    assert full.wrong < successes.wrong / 2
    assert full.repeated < successes.repeated / 5


def _row(variant: str, seed: int, digest: str, *, solved: int, looped: int = 0) -> AblationRow:
    lived = LiveResult(episodes=10, solved=solved, looped=looped, turns=30, right_turns=20)
    return AblationRow(
        variant=variant, seed=seed, digest=digest, examples=5, tokens=100, learned=50.0, lived=lived, seconds=1.0
    )


def _has_repeated_call(example: Example) -> bool:
    """Whether a call is repeated directly, although its tool did not time out."""
    turns = example.turns
    calls = [
        (call.name, call.arguments, turns[index + 1].content)
        for index, turn in enumerate(turns)
        for call in turn.tool_calls
    ]
    return any(call == following and call[2] != "E_TIMEOUT" for call, following in pairwise(calls))


def _call_message(tool: str, **arguments: str) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": tool, "arguments": json.dumps(arguments)}}],
    }


def _tool_message(text: str) -> dict[str, object]:
    return {"role": "tool", "content": text}
