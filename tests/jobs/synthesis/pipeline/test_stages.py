"""All stages together: on planted defects, on odd episodes, and with stages left out."""

import json
from collections import defaultdict

import pytest

from looper.benchmarks.synthesis.planted_defects.trajectories import planted, score
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.example_table import read_examples, read_pairs
from looper.jobs.synthesis.output.output_files import in_memory
from looper.jobs.synthesis.output.report_page import to_html
from looper.jobs.synthesis.pipeline.stages import STAGES, each, refine
from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory
from tests.jobs.episodes import episode
from tests.jobs.synthesis.play import call, play


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_defects_are_found_and_nothing_else(seed: int) -> None:
    made = planted(seed)
    instances = defaultdict(list)
    for batch, instance in zip(made.batches, made.instances, strict=True):
        instances[instance].append(batch)
    drafts = [draft for batches in instances.values() for task in refine(batches) for draft in task.drafts]
    for found in score(made, drafts):
        assert found.recall is not None, found.kind
        assert found.precision is not None, found.kind
        assert min(found.recall, found.precision) >= 0.95, found


def test_what_goes_in_is_kept_or_rejected_with_its_reason() -> None:
    batch = [*(episode(task) for task in range(20)), *(episode(task, success=False) for task in range(20, 25))]
    again = [episode(3).model_copy(update={"id": "other", "task_id": "renamed"})]
    report, files = in_memory([batch, again], 0.2)
    assert report.trajectories == 26
    assert report.rejected == {"failed": 5, "duplicate": 1}
    assert report.tally.leaks == {"task-3": 1}
    assert report.train + report.holdout == 20
    assert report.failure is None
    train, holdout = (read_examples(files[f"{part}.parquet"]) for part in ("train", "holdout"))
    assert (len(train), len(holdout)) == (report.train, report.holdout)
    assert not {example.task_id for example in train} & {example.task_id for example in holdout}
    assert in_memory([again, batch[::-1]], 0.2) == (report, files), "the order of the sources shows"


def test_nothing_left_is_said_with_the_counts() -> None:
    report, _ = in_memory([[episode(task, success=False) for task in range(3)]], 0.2)
    assert report.failure == (
        "no examples left after filtering: of 3 trajectories, 3 failed; ingest successful episodes"
    )


def test_one_task_cannot_be_judged() -> None:
    report, _ = in_memory([[episode(1), episode(1, room="red")]], 0.2)
    assert report.failure is not None
    assert "one task" in report.failure


def test_without_its_stages_it_keeps_what_succeeded_as_it_is() -> None:
    looped = play(*((call("get_room", room="7"), "free") * 5), "done")
    _, files = in_memory([[looped, episode(1), episode(2, success=False)]], 0.2, without=STAGES)
    examples = [e for part in ("train", "holdout") for e in read_examples(files[f"{part}.parquet"])]
    assert sorted(len(example.turns) for example in examples) == [5, 13]
    assert {turn.weight for example in examples for turn in example.turns if turn.role == "assistant"} == {1.0}
    assert read_pairs(files["pairs.parquet"]) == []


def odd(*steps: Step) -> Trajectory:
    return Trajectory.of(task_id="odd", format="test", steps=steps, outcome=Outcome(success=True))


def agent(name: str, arguments: str, id: str = "c") -> Step:
    return Step(source="agent", tool_calls=(ToolCall(id=id, name=name, arguments=arguments),))


ODD = {
    "nothing at all": odd(),
    "only the system": odd(Step(source="system", content="Hello.")),
    "a result without a call": odd(
        Step(source="tool", content="x", call_id="nobody"), Step(source="agent", content="a")
    ),
    "a result without an id": odd(Step(source="tool", content="x"), Step(source="agent", content="a")),
    "a call without a result": odd(agent("f", "{}"), Step(source="agent", content="a")),
    "one id twice": odd(agent("f", "{}"), Step(source="tool", content="1", call_id="c"), agent("f", "{}")),
    "arguments that are no JSON": odd(Step(source="user", content="?"), agent("f", "{not json")),
    "arguments that are a list": odd(Step(source="user", content="?"), agent("f", "[1, 2]")),
    "arguments nested deeply": odd(Step(source="user", content="?"), agent("f", "[" * 5000 + "]" * 5000)),
    "scripts mixed": odd(
        Step(source="user", content="您好，我叫王伟。 مرحبا 🎉 \u202e\x00 ñandú"),
        agent("búsqueda", json.dumps({"имя": "Анна", "a@例え.jp": "\ud83d"[:0]})),
        Step(source="tool", content="错误：找不到", call_id="c"),
        Step(source="agent", content="完成"),
    ),
    "a schema that contradicts the calls": odd(Step(source="user", content="?"), agent("g", '{"x": 1}')).model_copy(
        update={"tools": '[{"type": "function", "function": {"name": "f", "parameters": {"properties": 7}}}]'}
    ),
    "tools that are no JSON": odd(Step(source="user", content="?"), agent("g", "{}")).model_copy(update={"tools": "{"}),
    "a detail that is no JSON": Trajectory.of(
        task_id="odd", format="test", steps=(Step(source="agent"),), outcome=Outcome(success=True, detail="{")
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_episodes_are_kept_or_rejected_with_a_reason(what: str) -> None:
    report, _ = in_memory([[ODD[what], *(episode(task) for task in range(5))]], 0.2)
    assert report.trajectories == 6
    assert report.train + report.holdout + sum(report.rejected.values()) == 6
    assert report.train + report.holdout >= 5
    assert "Synthesis of it" in to_html(report, "it")


def test_an_episode_of_ten_thousand_steps_goes_through() -> None:
    steps = [part for number in range(3333) for part in (call("get_room", room=str(number)), f"room {number}: free")]
    long = each(Draft.of(play(*steps, "done"), labelled=True))
    assert len(long.steps) == 2 * 3333 + 3
    assert long.rejected is None


def test_a_stage_that_breaks_rejects_only_what_broke_it() -> None:
    broken = each(Draft.of(episode(1).model_copy(update={"steps": (None,)}), labelled=True))
    assert broken.rejected == "broke_a_stage"


def test_the_page_shows_no_markup_of_a_trajectory_as_its_own() -> None:
    batch = [play(*((call("get_room", room="<script>alert(1)</script>"), "free") * 3), "done", task="<b>")]
    page = to_html(in_memory([batch], 0.2)[0], "<i>name</i>")
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<i>" not in page


def test_a_report_does_not_keep_what_was_scrubbed() -> None:
    steps = (call("find", email="ann.smith@corp.example"), "Error: ann.smith@corp.example not found", "Sorry.")
    batch = [play(*steps, task=str(n), request=f"Find ann.smith@corp.example, {n}.") for n in range(3)]
    report, files = in_memory([batch], 0.3)
    assert report.tally.samples
    for kept in (report.model_dump_json().encode(), to_html(report, "it").encode(), files["rejected.parquet"]):
        assert b"ann.smith" not in kept
