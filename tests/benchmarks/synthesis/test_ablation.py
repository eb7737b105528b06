"""Whether synthesis pays: the noise, the variants, the closed loop, and the run from plan to report."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from looper.benchmarks.synthesis.ablation.bench import AblationRow, AblationTrainer, digest, plan, rows, run, task_ids
from looper.benchmarks.synthesis.ablation.live_evaluation import LiveResult, Speaker, live, loops, read_answer
from looper.benchmarks.synthesis.ablation.noisy_agent import FAILED, trajectories
from looper.benchmarks.synthesis.ablation.report import report, to_markdown
from looper.benchmarks.synthesis.ablation.taught_calls import Taught, taught
from looper.benchmarks.synthesis.ablation.variants import FULL, SUCCESSES, WITHOUT, examples
from looper.gym.generate import RecordedEpisode
from looper.gym.policies import run_expert
from looper.gym.workplaces import DISPATCH
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.platform.domain.example import Example
from looper.platform.domain.recipe import Recipe
from looper.platform.trajectories.readers.openai_chat import READER
from tests.tiny import FLOAT32, tiny_base

NOISY = trajectories(DISPATCH, task_ids(held_out=False)[:20], seed=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def test_what_a_careless_agent_leaves_is_the_same_each_time() -> None:
    assert trajectories(DISPATCH, task_ids(held_out=False)[:20], seed=0) == NOISY
    assert trajectories(DISPATCH, task_ids(held_out=False)[:20], seed=1) != NOISY


def test_it_fails_as_often_as_it_is_meant_to_but_for_what_is_judged_leniently() -> None:
    many = trajectories(DISPATCH, task_ids(held_out=False)[:200], seed=0)
    failed = sum(not each.outcome.success for each in many) / len(many)
    assert FAILED - 0.2 < failed < FAILED


def test_who_succeeds_ends_with_a_word() -> None:
    assert all(each.steps[-1].content == "done" for each in NOISY if each.outcome.success)


def test_no_held_out_task_is_trained() -> None:
    assert not {each.task_id for each in NOISY} & set(task_ids(held_out=True))


def test_successes_alone_are_learned_as_they_are() -> None:
    kept = examples(SUCCESSES, NOISY)
    assert len(kept) == sum(each.outcome.success is True for each in NOISY)
    assert {turn.weight for each in kept for turn in each.turns if turn.role == "assistant"} == {1.0}
    assert any(map(_repeats, kept))


def test_the_whole_pipeline_leaves_no_call_that_is_made_again_in_vain() -> None:
    kept = examples(FULL, NOISY)
    assert kept
    assert not any(map(_repeats, kept))


def test_every_stage_can_be_left_out() -> None:
    digests = {variant: digest(examples(variant, NOISY)) for variant in WITHOUT}
    changed = {variant for variant, found in digests.items() if found != digests[FULL]}
    assert {"full without prune", "full without credit", "full without duplicates", "full without errors"} <= changed


def test_a_loop_is_the_same_call_with_the_same_answer() -> None:
    open_, other = _asks("open", ref="HD-1"), _asks("open", ref="HD-2")
    assert loops([open_, _answers("opened"), open_, _answers("opened")])
    assert not loops([open_, _answers("E_TIMEOUT"), open_, _answers("opened")])
    assert not loops([open_, _answers("opened"), other, _answers("opened"), open_, _answers("opened")])
    assert not loops([{"role": "assistant", "content": "done"}, {"role": "assistant", "content": "done"}])


def test_answers_are_read_as_the_served_skills_are() -> None:
    call = '<tool_call>\n{"name": "open", "arguments": {"ref": "HD-1"}}\n</tool_call>'
    (found,) = read_answer(call, 2)["tool_calls"]
    assert (found["function"]["name"], json.loads(found["function"]["arguments"])) == ("open", {"ref": "HD-1"})
    assert "tool_calls" not in read_answer("done", 2)
    assert "tool_calls" not in read_answer(call.replace("}}", "}"), 2)


@torch.no_grad()
def test_rows_that_are_asked_together_say_what_each_would_alone(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    heard = [[list(range(10, 20)), list(range(30, 34))], [list(range(50, 57)), list(range(40, 49))]]
    speaker = Speaker(base, None, tokenizer, rows=2)
    histories: list[list[int]] = [[], []]
    for news in zip(*heard, strict=True):
        said = speaker.answer(news)
        for history, new, words in zip(histories, news, said, strict=True):
            history += new
            alone_ = model.generate(torch.tensor([history]), max_new_tokens=64, do_sample=False)[0, len(history) :]
            assert tokenizer.decode(alone_) == words
            history += alone_.tolist()


@pytest.mark.usefixtures("one_process")
def test_a_row_is_trained_and_lived(base: Path) -> None:
    recipe = Recipe(strategy="none", rank=2, max_steps=2, max_seq_length=1024)
    learner = AblationTrainer(base, SharedBase(base, FLOAT32), recipe, held_out=3)
    row = learner.try_out(FULL, 0, examples(FULL, NOISY)[:8])
    assert (row.lived.episodes, row.examples) == (3, 8)
    assert row.tokens > row.learned > 0


def test_untrained_and_together_is_as_untrained_and_alone(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tasks = [DISPATCH.task(id, seed=0) for id in task_ids(held_out=True)[:3]]
    together = live(base, None, tokenizer, tasks)
    assert together.episodes == 3
    assert together.turns == sum(live(base, None, tokenizer, [task]).turns for task in tasks)


def test_what_is_there_is_not_done_again_and_what_is_the_same_is_trained_once(tmp_path: Path) -> None:
    tried: list[str] = []

    def try_out(variant: str, seed: int, learned_from: Sequence[Example]) -> AblationRow:
        tried.append(variant)
        return _row(variant, seed, digest(learned_from), solved=9)

    wanted = plan([0], [SUCCESSES, FULL, "full without segment"])
    assert wanted == [(SUCCESSES, 0), (FULL, 0), ("full without segment", 0)]
    run(tmp_path, wanted, try_out, print)
    assert tried == [SUCCESSES, FULL]
    run(tmp_path, wanted, try_out, print)
    assert len(tried) == 2
    assert {row.variant for row in rows(tmp_path)} == {variant for variant, _ in wanted}


def test_the_two_that_are_compared_come_first() -> None:
    assert {variant for variant, _ in plan([0, 1, 2])[:6]} == {SUCCESSES, FULL}
    assert len(plan([0, 1, 2])) == 3 * len(WITHOUT)


def test_the_report_compares() -> None:
    found = report(
        [
            *(_row(FULL, seed, "a", solved=8 + seed, looped=0) for seed in range(3)),
            *(_row(SUCCESSES, seed, "b", solved=5, looped=4) for seed in range(3)),
            _row("full without segment", 0, "a", solved=8),
        ],
        [0],
        "a test",
        "none",
    )
    assert found.ratios == {"success_points_over_successes_only": pytest.approx(40), "loops_over_successes_only": 0.0}
    (full,) = [line for line in found.rows if line.variant == FULL]
    assert full.success is not None
    assert (full.success.mean, full.success.sd) == (pytest.approx(0.9), pytest.approx(0.1))
    assert "full without segment: the same examples as full with seeds 0" in to_markdown(found)


def test_what_the_data_teaches_is_told_without_training() -> None:
    expert = RecordedEpisode(task := DISPATCH.task("dispatch-000", seed=0), None, run_expert(task))
    right = examples(SUCCESSES, [READER.to_trajectory(orjson.loads(expert.to_jsonl()))])
    assert taught(right, DISPATCH, seed=0) == Taught(wrong=0.0, repeated=0.0)
    naive, full = (taught(examples(variant, NOISY), DISPATCH, seed=0) for variant in (SUCCESSES, FULL))
    assert naive.wrong > naive.repeated > 0.1
    assert full.wrong < naive.wrong / 2
    assert full.repeated < naive.repeated / 5


def _row(variant: str, seed: int, digest: str, *, solved: int, looped: int = 0) -> AblationRow:
    lived = LiveResult(episodes=10, solved=solved, looped=looped, turns=30, right_turns=20)
    return AblationRow(
        variant=variant, seed=seed, digest=digest, examples=5, tokens=100, learned=50.0, lived=lived, seconds=1.0
    )


def _repeats(example: Example) -> bool:
    """Whether a call is made again at once, for another reason than that its tool was down."""
    turns = example.turns
    made = [
        (call.name, call.arguments, turns[at + 1].content) for at, turn in enumerate(turns) for call in turn.tool_calls
    ]
    return any(one == other and one[2] != "E_TIMEOUT" for one, other in pairwise(made))


def _asks(tool: str, **arguments: str) -> dict[str, object]:
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": tool, "arguments": json.dumps(arguments)}}],
    }


def _answers(text: str) -> dict[str, object]:
    return {"role": "tool", "content": text}
