"""Tests of the planted defects: the ground truth is complete, and the scores of perfect and wrong drafts are right."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import orjson
import pytest

from looper.benchmarks.synthesis.planted_defects.trajectories import (
    ClassScore,
    DefectKind,
    PlantedCorpus,
    plant_defects,
    score_drafts,
    to_markdown,
)
from looper.gym import WORKPLACES
from looper.jobs.synthesis.draft import Draft, DraftStep, ErrorKind, StageVerdict
from looper.platform.domain.trajectory import Step, Trajectory

STAGES = {
    DefectKind.LOOP: "prune",
    DefectKind.REPEATED_CALL: "prune",
    DefectKind.LUCKY: "credit",
    DefectKind.LEAK: "split",
}
ERRORS = {DefectKind(error.value): error for error in ErrorKind}


@cache
def corpus() -> PlantedCorpus:
    return plant_defects(0)


def trajectories() -> Iterator[Trajectory]:
    for batch in corpus().batches:
        yield from batch


def unchanged_drafts() -> list[Draft]:
    return [Draft.from_trajectory(trajectory, has_labels=True) for trajectory in trajectories()]


def scores(drafts: Sequence[Draft]) -> dict[DefectKind, ClassScore]:
    return {each.kind: each for each in score_drafts(corpus(), drafts)}


def join_text(steps: Sequence[Step]) -> str:
    return "\n".join([step.content + "".join(call.arguments for call in step.tool_calls) for step in steps])


def remove_parts(placed: DraftStep, parts: Sequence[str]) -> DraftStep:
    def clean(text: str) -> str:
        for part in parts:
            text = text.replace(part, "<removed>")
        return text

    calls = tuple(call.model_copy(update={"arguments": clean(call.arguments)}) for call in placed.step.tool_calls)
    return replace(
        placed, step=placed.step.model_copy(update={"content": clean(placed.step.content), "tool_calls": calls})
    )


@cache
def perfect_drafts(in_verdicts: bool) -> tuple[Draft, ...]:
    """Return drafts of a pipeline that knows the ground truth. Errors are named by verdicts, or by the steps."""
    parts: dict[str, list[str]] = defaultdict(list)
    verdicts: dict[str, list[StageVerdict]] = defaultdict(list)
    errors: dict[tuple[str, int], ErrorKind] = {}
    rejected: dict[int, str] = {}
    for text in corpus().texts:
        if not text.harmless:
            parts[text.trajectory] += text.parts
    for span in corpus().spans:
        if span.kind in STAGES:
            verdicts[span.trajectory].append(StageVerdict(STAGES[span.kind], span.kind, "", span.first + 2))
        elif in_verdicts:
            verdicts[span.trajectory].append(StageVerdict("errors", span.kind, "", span.first))
        else:
            errors[span.trajectory, span.first] = ERRORS[span.kind]
    for group in corpus().groups:
        if group.kind is DefectKind.DUPLICATE:
            indices = [index for index, each in enumerate(trajectories()) if each.id in group.trajectories]
            rejected |= dict.fromkeys(indices[-group.cases :], "duplicate" if len(indices) < 5 else "too_many")
        else:
            verdicts[min(group.trajectories)].append(StageVerdict(STAGES[group.kind], group.kind, ""))
    return tuple(
        replace(
            draft,
            steps=tuple(
                replace(
                    remove_parts(placed, parts[draft.source.id]),
                    error=errors.get((draft.source.id, placed.source_index)),
                )
                for placed in draft.steps
            ),
            verdicts=tuple(verdicts[draft.source.id]),
            rejected=rejected.get(index),
        )
        for index, draft in enumerate(unchanged_drafts())
    )


def test_the_same_seed_plants_the_same_defects() -> None:
    assert plant_defects(0) == corpus()
    assert plant_defects(1) != corpus()


def test_every_class_has_cases_and_every_workplace_has_files() -> None:
    assert all(corpus().cases(kind) >= 40 for kind in DefectKind)
    assert len(corpus().batches) == len(corpus().instances)
    assert set(corpus().instances) == set(WORKPLACES)
    assert sum(map(len, corpus().batches)) <= 1600


@pytest.mark.parametrize("kind", [DefectKind.SECRET, DefectKind.PERSONAL])
def test_there_are_harmless_texts(kind: DefectKind) -> None:
    assert sum(text.kind is kind and text.harmless for text in corpus().texts) >= 40


def test_planted_defects_are_in_the_trajectories() -> None:
    every = {trajectory.id: trajectory for trajectory in trajectories()}
    for span in corpus().spans:
        steps = every[span.trajectory].steps[span.first : span.last + 1]
        assert steps[-1].source == "tool"
        assert steps[0].source == ("tool" if span.kind in ERRORS else "agent")
    for text in corpus().texts:
        held = join_text(every[text.trajectory].steps)
        assert all(part in held for part in text.parts)
    assert all(group.trajectories <= every.keys() for group in corpus().groups)


def calls_with_answers(trajectory: Trajectory) -> list[tuple[int, object]]:
    """Return each call with the index of its step: the tool, the arguments and the answer."""
    answers = {step.call_id: step.content for step in trajectory.steps if step.source == "tool"}
    return [
        (index, (call.name, parse_arguments(call.arguments), answers[call.id]))
        for index, step in enumerate(trajectory.steps)
        for call in step.tool_calls
    ]


def parse_arguments(text: str) -> object:
    try:
        return sorted(orjson.loads(text).items())
    except orjson.JSONDecodeError:
        return text


@pytest.mark.parametrize("period", [1, 2, 3])
def test_calls_repeat_only_where_it_was_planted(period: int) -> None:
    spans = defaultdict(list)
    for span in corpus().spans:
        if span.kind in (DefectKind.LOOP, DefectKind.REPEATED_CALL):
            spans[span.trajectory].append(range(span.first, span.last + 1))
    seen = set()
    for trajectory in trajectories():
        calls = calls_with_answers(trajectory)
        for start in range(len(calls) - 2 * period + 1):
            once, again = calls[start : start + period], calls[start + period : start + 2 * period]
            if [call for _, call in once] == [call for _, call in again]:
                assert any(once[0][0] in span and again[-1][0] in span for span in spans[trajectory.id])
                seen.add(trajectory.id)
    assert seen <= spans.keys()
    assert len(seen) >= 12


def test_a_loop_has_three_rounds_or_more_and_a_repeated_call_two() -> None:
    every = {trajectory.id: trajectory for trajectory in trajectories()}
    for span in corpus().spans:
        calls = [call for index, call in calls_with_answers(every[span.trajectory]) if span.first <= index <= span.last]
        if span.kind is DefectKind.LOOP:
            assert any(len(calls) >= 3 * p and calls[p:] == calls[:-p] for p in (1, 2, 3))
        elif span.kind is DefectKind.REPEATED_CALL:
            assert len(calls) == 2
            assert calls[0] == calls[1]


def test_every_error_code_of_the_gym_is_in_the_ground_truth() -> None:
    errors = {(span.trajectory, span.first) for span in corpus().spans if span.kind in ERRORS}
    for trajectory in trajectories():
        for index, step in enumerate(trajectory.steps):
            if step.source == "tool" and step.content.startswith("E_"):
                assert (trajectory.id, index) in errors


def test_only_planted_leaks_share_a_request() -> None:
    files = defaultdict(set)
    tasks = defaultdict(set)
    for file, batch in enumerate(corpus().batches):
        for trajectory in batch:
            request = " ".join(" ".join(step.content for step in trajectory.steps if step.source == "user").split())
            files[request].add(file)
            tasks[request].add(trajectory.task_id)
    shared = [request for request in tasks if len(tasks[request]) > 1]
    assert len(shared) == corpus().cases(DefectKind.LEAK) - 6 * len(WORKPLACES), "six per workplace have other words"
    assert all(len(files[request]) == 2 for request in shared)


@pytest.mark.parametrize("instance", WORKPLACES)
def test_nearly_all_successes_make_the_call_that_lucky_ones_skip(instance: str) -> None:
    first = WORKPLACES[instance].procedure[0].tool
    lucky = {each for group in corpus().groups if group.kind is DefectKind.LUCKY for each in group.trajectories}
    files = [
        batch for batch, workplace in zip(corpus().batches, corpus().instances, strict=True) if workplace == instance
    ]
    for batch in files:
        successes = [trajectory for trajectory in batch if trajectory.outcome.success]
        tools = {each.id: {call.name for step in each.steps for call in step.tool_calls} for each in successes}
        assert {each for each in tools if first not in tools[each]} == lucky & tools.keys()
        assert len(lucky & tools.keys()) < 0.1 * len(successes)
        for optional in ("history", "status", "note"):
            assert sum(optional in tools[each] for each in tools) < 0.5 * len(successes)


@pytest.mark.parametrize("in_verdicts", [True, False])
def test_perfect_drafts_score_one(in_verdicts: bool) -> None:
    for each in scores(perfect_drafts(in_verdicts)).values():
        assert (each.kind, each.precision, each.recall) == (each.kind, 1.0, 1.0)
        assert each.found == each.cases == corpus().cases(each.kind)


def test_unchanged_drafts_score_zero() -> None:
    for each in scores(unchanged_drafts()).values():
        assert (each.kind, each.precision, each.recall, each.found, each.false) == (each.kind, None, 0.0, 0, 0)


def test_no_drafts_score_zero() -> None:
    assert all(each.recall == 0.0 for each in scores([]).values())


def find_clean_draft(drafts: Sequence[Draft]) -> int:
    """Return the index of an episode in which nothing was planted."""
    planted_in = {span.trajectory for span in corpus().spans} | {text.trajectory for text in corpus().texts}
    planted_in.update(*(group.trajectories for group in corpus().groups))
    return next(index for index, draft in enumerate(drafts) if draft.source.id not in planted_in)


def add_wrong_verdict(draft: Draft, kind: DefectKind) -> Draft:
    stage = STAGES.get(kind, "errors")
    return draft.with_steps(
        draft.steps, StageVerdict(stage, kind, "", None if kind in (DefectKind.LUCKY, DefectKind.LEAK) else 2)
    )


def add_wrong_error(draft: Draft, kind: DefectKind) -> Draft:
    return draft.with_steps((*draft.steps[:3], replace(draft.steps[3], error=ERRORS[kind]), *draft.steps[4:]))


def add_wrong_reason(draft: Draft, kind: DefectKind) -> Draft:
    return draft.reject("dedupe", "duplicate", "")


@pytest.mark.parametrize(
    ("kind", "add_wrong"),
    [
        *((kind, add_wrong_verdict) for kind in (*STAGES, *ERRORS)),
        *((kind, add_wrong_error) for kind in ERRORS),
        (DefectKind.DUPLICATE, add_wrong_reason),
    ],
)
def test_one_wrong_verdict_lowers_precision(kind: DefectKind, add_wrong: Callable[[Draft, DefectKind], Draft]) -> None:
    drafts = list(perfect_drafts(in_verdicts=True))
    index = find_clean_draft(drafts)
    drafts[index] = add_wrong(drafts[index], kind)
    found = scores(drafts)
    assert found[kind].false == 1
    assert found[kind].precision == found[kind].cases / (found[kind].cases + 1)
    assert all(each.precision == each.recall == 1.0 for each in found.values() if each.kind is not kind)


@pytest.mark.parametrize("kind", [DefectKind.SECRET, DefectKind.PERSONAL])
def test_a_removed_harmless_text_lowers_precision(kind: DefectKind) -> None:
    drafts = list(perfect_drafts(in_verdicts=True))
    text = next(text for text in corpus().texts if text.kind is kind and text.harmless)
    index = next(index for index, draft in enumerate(drafts) if draft.source.id == text.trajectory)
    drafts[index] = replace(drafts[index], steps=tuple(remove_parts(each, text.parts) for each in drafts[index].steps))
    found = scores(drafts)[kind]
    assert (found.false, found.recall) == (1, 1.0)
    assert found.precision == found.cases / (found.cases + 1)


def test_a_key_is_not_removed_while_one_of_its_lines_is_left() -> None:
    text = next(text for text in corpus().texts if len(text.parts) > 1)
    drafts = [
        replace(draft, steps=tuple(remove_parts(each, text.parts[1:]) for each in draft.steps))
        if draft.source.id == text.trajectory
        else draft
        for draft in unchanged_drafts()
    ]
    assert scores(drafts)[text.kind].found == 0


def test_an_error_of_another_class_is_missed_and_a_false_positive() -> None:
    drafts = list(perfect_drafts(in_verdicts=False))
    span = next(span for span in corpus().spans if span.kind is DefectKind.TRANSIENT)
    index = next(index for index, draft in enumerate(drafts) if draft.source.id == span.trajectory)
    steps = tuple(
        replace(placed, error=ErrorKind.CAUSAL) if placed.source_index == span.first else placed
        for placed in drafts[index].steps
    )
    drafts[index] = drafts[index].with_steps(steps)
    found = scores(drafts)
    assert found[DefectKind.TRANSIENT].found == found[DefectKind.TRANSIENT].cases - 1
    assert found[DefectKind.CAUSAL].false == 1


def test_rejecting_the_original_too_is_a_false_positive() -> None:
    drafts = list(perfect_drafts(in_verdicts=True))
    group = next(group for group in corpus().groups if group.kind is DefectKind.DUPLICATE)
    drafts = [
        replace(draft, rejected="duplicate") if draft.source.id in group.trajectories else draft for draft in drafts
    ]
    assert scores(drafts)[DefectKind.DUPLICATE].false == 1


def test_the_table_has_a_row_per_class() -> None:
    table = to_markdown([ClassScore(DefectKind.LOOP, cases=4, found=3, false=1), ClassScore(DefectKind.LEAK, 2, 0, 0)])
    assert table.splitlines()[2:] == ["| loop | 4 | 3 | 1 | 0.750 | 0.750 |", "| leak | 2 | 0 | 0 |  | 0.000 |"]
