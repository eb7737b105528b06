"""The numbers of a candidate, on a tiny base."""

import json
from pathlib import Path

import pytest
import torch

from looper.jobs.consolidation.adapters.lora import Factors, Lora
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window_table import ExampleWindow
from looper.jobs.consolidation.evaluation.candidate_scores import evaluate_candidate, score_adapter
from looper.jobs.consolidation.evaluation.heldout import HeldOutQuestions
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks, WindowKey
from looper.jobs.consolidation.model.device import Device
from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.render import render_example
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.errors import InvalidInput
from looper.platform.domain.example import Example, Turn, name_rendering
from looper.platform.domain.trajectory import ToolCall
from tests.jobs.episodes import RECIPE, episode
from tests.jobs.windows import windows_of

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def base(base_dir: Path, device: Device) -> SharedBase:
    return SharedBase(base_dir, device)


def windows(base: SharedBase, *examples: Example) -> list[ExampleWindow]:
    return [row for rows in windows_of(ExampleEncoder.open(base.folder, 256), *examples) for row in rows]


def questions(
    new: list[ExampleWindow],
    earlier: list[ExampleWindow] | None = None,
    control: list[ExampleWindow] | None = None,
    marks: HighWaterMarks | None = None,
) -> HeldOutQuestions:
    """Ask ``earlier`` as the windows of one earlier session."""
    earlier_keys = [WindowKey("earlier", number) for number in range(len(earlier or []))]
    return HeldOutQuestions(new, earlier or [], control or [], "now", earlier_keys, marks or HighWaterMarks())


def asked(base: SharedBase, *tasks: int) -> list[ExampleWindow]:
    return windows(
        base, *(render_example(weigh(Draft.from_trajectory(episode(task), has_labels=True))) for task in tasks)
    )


def lived(*calls: str) -> Example:
    """An episode with a call of each of the tools ``calls``, one after the other."""
    turns = [Turn(role="user", content="Go.")]
    for name in calls:
        call = ToolCall(id="c", name=name, arguments='{"day": "3"}')
        turns += [Turn(role="assistant", tool_calls=(call,), weight=1), Turn(role="tool", content="ok", call_id="c")]
    tools = [{"function": {"name": name, "parameters": {"properties": {"day": {}}}}} for name in ("book", "find")]
    return Example(id="e", trajectory_id="e", task_id="t", turns=tuple(turns), tools=json.dumps(tools))


def taught(base: SharedBase, example: Example) -> Lora:
    """An adapter that says just what the agent of ``example`` said."""
    lora = base.init_adapter(RECIPE)
    parameters = [parameter for factors in lora.values() for parameter in (factors.a, factors.b)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    packed = base.pack([[row.window for row in windows(base, example)]])
    for _ in range(60):
        optimizer.zero_grad()
        base.losses(packed, [lora]).mean().backward()
        optimizer.step()
    return {layer: factors.copy() for layer, factors in lora.items()}


def moved(lora: Lora, by: float) -> Lora:
    torch.manual_seed(0)
    return {layer: Factors(each.a.detach(), by * torch.randn_like(each.b), each.scale) for layer, each in lora.items()}


def test_results_are_counted_by_context_too(base: SharedBase) -> None:
    example = lived("book")
    beside_notes = example.model_copy(update={"id": name_rendering(example.id, "with_notes", 0)})
    scores, _ = evaluate_candidate(
        base, taught(base, example), None, questions(windows(base, example, beside_notes)), 0.0
    )
    assert scores.new_tasks is not None
    assert [pair.candidate.actions for pair in scores.new_tasks] == [2]
    assert scores.new_tasks_by_context is not None
    by_context = scores.new_tasks_by_context
    assert by_context.keys() == {"", "with_notes"}
    assert all(
        [(pair.candidate.actions, pair.candidate.right) for pair in pairs] == [(1, 1)] for pairs in by_context.values()
    )
    alone, _ = evaluate_candidate(base, taught(base, example), None, questions(windows(base, example)), 0.0)
    assert alone.new_tasks_by_context is None


def test_all_numbers_are_taken_where_there_is_something_to_take_them_on(base: SharedBase) -> None:
    candidate = moved(base.init_adapter(RECIPE), 0.1)
    scores, _ = evaluate_candidate(
        base, candidate, None, questions(asked(base, 1, 2), asked(base, 3), asked(base, 4)), 0.25
    )
    assert scores.earlier is not None
    assert scores.control is not None
    assert scores.candidate.actions == scores.current.actions == 2
    assert scores.earlier.candidate.actions == scores.control.reference.actions == 1
    for each in (scores.candidate, scores.current, scores.earlier.reference, scores.control.candidate):
        assert each.loops == 0, "an episode with one call"
        assert each.tool_errors is not None
    assert scores.candidate.loss != scores.current.loss
    assert scores.canary is not None
    assert scores.canary > 0.01
    assert scores.conversion_error == 0.25

    first, _ = evaluate_candidate(base, candidate, None, questions(asked(base, 1, 2)), 0.0)
    assert (first.earlier, first.control) == (None, None)


def test_the_control_is_held_against_the_bare_base_and_all_else_against_the_version_before(base: SharedBase) -> None:
    start, candidate = moved(base.init_adapter(RECIPE), 0.05), moved(base.init_adapter(RECIPE), 0.1)
    same = asked(base, 1, 2)
    scores, _ = evaluate_candidate(base, candidate, start, questions(same, same, same), 0.0)
    bare, _ = evaluate_candidate(base, start, None, questions(same), 0.0)
    assert scores.earlier is not None
    assert scores.control is not None
    assert scores.current == scores.earlier.reference == bare.candidate
    assert scores.control.reference == bare.current


def test_results_are_paired_by_task_and_the_best_of_the_lineage_is_carried_forward(base: SharedBase) -> None:
    knowing, start = taught(base, lived("book", "find")), moved(base.init_adapter(RECIPE), 0.05)
    forgetful = moved(base.init_adapter(RECIPE), 0.1)
    old, new = windows(base, lived("book", "find")), asked(base, 1, 2)
    first = evaluate_candidate(base, knowing, None, HeldOutQuestions(old, [], [], "earlier"), 0.0)
    assert first.scores.new_tasks is not None
    (alone,) = first.scores.new_tasks
    assert (alone.candidate.actions, alone.candidate.right, alone.reference.right) == (2, 2, 0)

    # Two versions later: the one before has forgotten the session too, and is no excuse.
    later = evaluate_candidate(base, forgetful, start, questions(new, old, marks=first.marks), 0.0)
    assert later.scores.new_tasks is not None
    assert later.scores.earlier_tasks is not None
    assert len(later.scores.new_tasks) == 2
    (kept,) = later.scores.earlier_tasks
    assert (kept.candidate.right, kept.reference.right) == (0, 2)
    assert later.scores.earlier is not None
    assert later.scores.earlier.reference.accuracy == 1
    assert later.marks.sessions["earlier"] == first.marks.sessions["earlier"]
    assert set(later.marks.sessions) == {"earlier", "now"}

    unknown = evaluate_candidate(base, forgetful, knowing, questions(new, old), 0.0)
    assert unknown.scores.earlier_tasks is not None
    assert unknown.scores.earlier_tasks[0].reference == kept.reference, "without marks, the version before is the best"


def test_an_adapter_that_does_nothing_leaves_the_canary_as_it_is(base: SharedBase) -> None:
    dead = {layer: each.copy() for layer, each in base.init_adapter(RECIPE).items()}
    assert evaluate_candidate(base, dead, None, questions(asked(base, 1)), 0.0).scores.canary == 0


def test_an_adapter_that_was_trained_to_pieces_has_no_numbers(base: SharedBase) -> None:
    broken = moved(base.init_adapter(RECIPE), float("nan"))
    with pytest.raises(InvalidInput, match="the held-out loss of the candidate is nan"):
        evaluate_candidate(base, broken, None, questions(asked(base, 1)), 0.0)


def test_an_agent_that_says_its_last_call_again_loops(base: SharedBase) -> None:
    looping = taught(base, lived("book", "book", "book"))
    heldout = windows(base, lived("book", "find", "book"))
    scores = score_adapter(base, looping, heldout)
    assert (scores.actions, scores.accuracy, scores.loops) == (3, 2 / 3, 1 / 3)
    assert scores.tool_errors == 0, "both are tools it has"
    assert score_adapter(base, looping, windows(base, lived("book", "book", "book"))).loops == 0


def test_an_agent_that_calls_what_is_no_tool_makes_errors(base: SharedBase) -> None:
    inventing = taught(base, lived("zap", "zap"))
    scores = score_adapter(base, inventing, windows(base, lived("book", "find")))
    assert scores.tool_errors == 1
