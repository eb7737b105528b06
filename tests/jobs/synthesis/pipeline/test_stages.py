"""All stages together: with planted defects, with malformed episodes, and with disabled stages."""

import json
from collections import defaultdict
from typing import get_args

import pytest

from looper.benchmarks.synthesis.planted_defects.trajectories import plant_defects, score_drafts
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.llm import context_distillation, critique, hindsight, judge, rules, task_variants
from looper.jobs.synthesis.output.example_table import read_examples, read_pairs
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.output.report_page import render_report_page
from looper.jobs.synthesis.pipeline.stages import OPTIONAL_STAGES, run_all_stages, run_episode_stages
from looper.jobs.synthesis.stages import (
    check_schema,
    classify_errors,
    credit,
    duplicates,
    grade,
    prune,
    scrub,
)
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory
from looper.platform.settings import ModelStage, SynthesisStage
from tests.jobs.episodes import episode
from tests.jobs.synthesis.play import call, play


def test_stage_names_of_the_settings_are_those_of_the_code() -> None:
    assert set(OPTIONAL_STAGES) == set(get_args(SynthesisStage))
    for stage in (check_schema, classify_errors, credit, duplicates, grade, prune, scrub):
        assert stage.STAGE in OPTIONAL_STAGES
    stages_with_a_model = (judge, hindsight, context_distillation, critique, rules, task_variants)
    assert sorted(stage.STAGE for stage in stages_with_a_model) == sorted(get_args(ModelStage))


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_defects_are_found_with_few_false_positives(seed: int) -> None:
    corpus = plant_defects(seed)
    instances = defaultdict(list)
    for batch, instance in zip(corpus.batches, corpus.instances, strict=True):
        instances[instance].append(batch)
    drafts = [draft for batches in instances.values() for task in run_all_stages(batches) for draft in task.drafts]
    for found in score_drafts(corpus, drafts):
        assert found.recall is not None, found.kind
        assert found.precision is not None, found.kind
        assert min(found.recall, found.precision) >= 0.95, found


def test_each_trajectory_is_kept_or_rejected_with_a_reason() -> None:
    batch = [*(episode(task) for task in range(20)), *(episode(task, success=False) for task in range(20, 25))]
    again = [episode(3).model_copy(update={"id": "other", "task_id": "renamed"})]
    report, files = synthesize_in_memory([batch, again], 0.2)
    assert report.trajectories == 26
    assert report.rejected == {"failed": 5, "duplicate": 1}
    assert report.tally.leaks == {"task-3": 1}
    assert report.train + report.holdout == 20
    assert report.failure is None
    train, holdout = (read_examples(files[f"{part}.parquet"]) for part in ("train", "holdout"))
    assert (len(train), len(holdout)) == (report.train, report.holdout)
    assert not {example.task_id for example in train} & {example.task_id for example in holdout}
    assert synthesize_in_memory([again, batch[::-1]], 0.2) == (report, files), (
        "the result depends on the order of the sources"
    )


def test_a_failure_without_examples_names_the_counts() -> None:
    report, _ = synthesize_in_memory([[episode(task, success=False) for task in range(3)]], 0.2)
    assert report.failure == (
        "no examples left after filtering: of 3 trajectories, 3 failed; ingest successful episodes"
    )


def test_a_single_task_cannot_be_held_out() -> None:
    report, _ = synthesize_in_memory([[episode(1), episode(1, room="red")]], 0.2)
    assert report.failure is not None
    assert "one task" in report.failure


def test_with_all_stages_disabled_successes_are_kept_unchanged() -> None:
    loop = play(*((call("get_room", room="7"), "free") * 5), "done")
    _, files = synthesize_in_memory(
        [[loop, episode(1), episode(2, success=False)]], 0.2, disabled_stages=OPTIONAL_STAGES
    )
    examples = [e for part in ("train", "holdout") for e in read_examples(files[f"{part}.parquet"])]
    assert sorted(len(example.turns) for example in examples) == [5, 13]
    assert {turn.weight for example in examples for turn in example.turns if turn.role == "assistant"} == {1.0}
    assert read_pairs(files["pairs.parquet"]) == []


def malformed(*steps: Step) -> Trajectory:
    return Trajectory.create(task_id="odd", format="test", steps=steps, outcome=Outcome(success=True))


def agent(name: str, arguments: str, id: str = "c") -> Step:
    return Step(source="agent", tool_calls=(ToolCall(id=id, name=name, arguments=arguments),))


MALFORMED = {
    "nothing at all": malformed(),
    "only the system": malformed(Step(source="system", content="Hello.")),
    "a result without a call": malformed(
        Step(source="tool", content="x", call_id="nobody"), Step(source="agent", content="a")
    ),
    "a result without an id": malformed(Step(source="tool", content="x"), Step(source="agent", content="a")),
    "a call without a result": malformed(agent("f", "{}"), Step(source="agent", content="a")),
    "one id twice": malformed(agent("f", "{}"), Step(source="tool", content="1", call_id="c"), agent("f", "{}")),
    "arguments that are no JSON": malformed(Step(source="user", content="?"), agent("f", "{not json")),
    "arguments that are a list": malformed(Step(source="user", content="?"), agent("f", "[1, 2]")),
    "arguments nested deeply": malformed(Step(source="user", content="?"), agent("f", "[" * 5000 + "]" * 5000)),
    "scripts mixed": malformed(
        Step(source="user", content="您好，我叫王伟。 مرحبا 🎉 \u202e\x00 ñandú"),
        agent("búsqueda", json.dumps({"имя": "Анна", "a@例え.jp": "\ud83d"[:0]})),
        Step(source="tool", content="错误：找不到", call_id="c"),
        Step(source="agent", content="完成"),
    ),
    "a schema that contradicts the calls": malformed(
        Step(source="user", content="?"), agent("g", '{"x": 1}')
    ).model_copy(
        update={"tools": '[{"type": "function", "function": {"name": "f", "parameters": {"properties": 7}}}]'}
    ),
    "tools that are no JSON": malformed(Step(source="user", content="?"), agent("g", "{}")).model_copy(
        update={"tools": "{"}
    ),
    "a detail that is no JSON": Trajectory.create(
        task_id="odd", format="test", steps=(Step(source="agent"),), outcome=Outcome(success=True, detail="{")
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_episodes_are_kept_or_rejected_with_a_reason(name: str) -> None:
    report, _ = synthesize_in_memory([[MALFORMED[name], *(episode(task) for task in range(5))]], 0.2)
    assert report.trajectories == 6
    assert report.train + report.holdout + sum(report.rejected.values()) == 6
    assert report.train + report.holdout >= 5
    assert "Synthesis of it" in render_report_page(report, "it")


def test_an_episode_of_ten_thousand_steps_is_kept() -> None:
    steps = [part for number in range(3333) for part in (call("get_room", room=str(number)), f"room {number}: free")]
    long = run_episode_stages(Draft.from_trajectory(play(*steps, "done"), has_labels=True))
    assert len(long.steps) == 2 * 3333 + 3
    assert long.rejected is None


def test_an_episode_that_breaks_a_stage_is_rejected() -> None:
    broken = run_episode_stages(
        Draft.from_trajectory(episode(1).model_copy(update={"steps": (None,)}), has_labels=True)
    )
    assert broken.rejected == "broke_a_stage"


def test_the_report_page_escapes_trajectory_text() -> None:
    batch = [play(*((call("get_room", room="<script>alert(1)</script>"), "free") * 3), "done", task="<b>")]
    page = render_report_page(synthesize_in_memory([batch], 0.2)[0], "<i>name</i>")
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<i>" not in page


def test_a_report_does_not_contain_scrubbed_values() -> None:
    steps = (call("find", email="ann.smith@corp.example"), "Error: ann.smith@corp.example not found", "Sorry.")
    batch = [play(*steps, task=str(n), request=f"Find ann.smith@corp.example, {n}.") for n in range(3)]
    report, files = synthesize_in_memory([batch], 0.3)
    assert report.tally.samples
    for output in (
        report.model_dump_json().encode(),
        render_report_page(report, "it").encode(),
        files["rejected.parquet"],
    ):
        assert b"ann.smith" not in output
