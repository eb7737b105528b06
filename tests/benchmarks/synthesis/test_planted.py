"""The measure itself: the truth is complete, who knows it scores 1, who finds nothing 0, and a wrong word counts."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import orjson
import pytest

from looper.benchmarks.synthesis.planted_defects.trajectories import (
    ClassScore,
    Kind,
    PlantedCorpus,
    plant_defects,
    score_drafts,
    to_markdown,
)
from looper.gym import WORKPLACES
from looper.jobs.synthesis.draft import Draft, DraftStep, ErrorKind, StageVerdict
from looper.platform.domain.trajectory import Step, Trajectory

STAGES = {Kind.LOOP: "prune", Kind.REPEATED_CALL: "prune", Kind.LUCKY: "credit", Kind.LEAK: "split"}
ERRORS = {Kind(error.value): error for error in ErrorKind}


@cache
def truth() -> PlantedCorpus:
    return plant_defects(0)


def trajectories() -> Iterator[Trajectory]:
    for batch in truth().batches:
        yield from batch


def untouched() -> list[Draft]:
    return [Draft.from_trajectory(trajectory, has_labels=True) for trajectory in trajectories()]


def scores(drafts: Sequence[Draft]) -> dict[Kind, ClassScore]:
    return {each.kind: each for each in score_drafts(truth(), drafts)}


def text_of(steps: Sequence[Step]) -> str:
    return "\n".join([step.content + "".join(call.arguments for call in step.tool_calls) for step in steps])


def scrubbed(placed: DraftStep, parts: Sequence[str]) -> DraftStep:
    def clean(text: str) -> str:
        for part in parts:
            text = text.replace(part, "<gone>")
        return text

    calls = tuple(call.model_copy(update={"arguments": clean(call.arguments)}) for call in placed.step.tool_calls)
    return replace(
        placed, step=placed.step.model_copy(update={"content": clean(placed.step.content), "tool_calls": calls})
    )


@cache
def knows_all(in_verdicts: bool) -> tuple[Draft, ...]:
    """Drafts of a pipeline that was told the truth; errors are told by verdicts, or by the steps themselves."""
    parts: dict[str, list[str]] = defaultdict(list)
    verdicts: dict[str, list[StageVerdict]] = defaultdict(list)
    errors: dict[tuple[str, int], ErrorKind] = {}
    rejected: dict[int, str] = {}
    for text in truth().texts:
        if not text.harmless:
            parts[text.trajectory] += text.parts
    for span in truth().spans:
        if span.kind in STAGES:
            verdicts[span.trajectory].append(StageVerdict(STAGES[span.kind], span.kind, "", span.first + 2))
        elif in_verdicts:
            verdicts[span.trajectory].append(StageVerdict("errors", span.kind, "", span.first))
        else:
            errors[span.trajectory, span.first] = ERRORS[span.kind]
    for group in truth().groups:
        if group.kind is Kind.DUPLICATE:
            places = [place for place, each in enumerate(trajectories()) if each.id in group.trajectories]
            rejected |= dict.fromkeys(places[-group.cases :], "duplicate" if len(places) < 5 else "too_many")
        else:
            verdicts[min(group.trajectories)].append(StageVerdict(STAGES[group.kind], group.kind, ""))
    return tuple(
        replace(
            draft,
            steps=tuple(
                replace(
                    scrubbed(placed, parts[draft.source.id]), error=errors.get((draft.source.id, placed.source_index))
                )
                for placed in draft.steps
            ),
            verdicts=tuple(verdicts[draft.source.id]),
            rejected=rejected.get(place),
        )
        for place, draft in enumerate(untouched())
    )


def test_the_same_seed_plants_the_same() -> None:
    assert plant_defects(0) == truth()
    assert plant_defects(1) != truth()


def test_every_class_has_its_cases_and_every_work_place_its_files() -> None:
    assert all(truth().cases(kind) >= 40 for kind in Kind)
    assert len(truth().batches) == len(truth().instances)
    assert set(truth().instances) == set(WORKPLACES)
    assert sum(map(len, truth().batches)) <= 1600


@pytest.mark.parametrize("kind", [Kind.SECRET, Kind.PERSONAL])
def test_there_are_harmless_look_alikes(kind: Kind) -> None:
    assert sum(text.kind is kind and text.harmless for text in truth().texts) >= 40


def test_what_was_planted_is_there() -> None:
    every = {trajectory.id: trajectory for trajectory in trajectories()}
    for span in truth().spans:
        steps = every[span.trajectory].steps[span.first : span.last + 1]
        assert steps[-1].source == "tool"
        assert steps[0].source == ("tool" if span.kind in ERRORS else "agent")
    for text in truth().texts:
        held = text_of(every[text.trajectory].steps)
        assert all(part in held for part in text.parts)
    assert all(group.trajectories <= every.keys() for group in truth().groups)


def answered(trajectory: Trajectory) -> list[tuple[int, object]]:
    """Each call with its place: what was called, with what, and what it said."""
    answers = {step.call_id: step.content for step in trajectory.steps if step.source == "tool"}
    return [
        (place, (call.name, arguments_of(call.arguments), answers[call.id]))
        for place, step in enumerate(trajectory.steps)
        for call in step.tool_calls
    ]


def arguments_of(text: str) -> object:
    try:
        return sorted(orjson.loads(text).items())
    except orjson.JSONDecodeError:
        return text


@pytest.mark.parametrize("period", [1, 2, 3])
def test_nothing_repeats_but_where_it_was_planted(period: int) -> None:
    spans = defaultdict(list)
    for span in truth().spans:
        if span.kind in (Kind.LOOP, Kind.REPEATED_CALL):
            spans[span.trajectory].append(range(span.first, span.last + 1))
    seen = set()
    for trajectory in trajectories():
        calls = answered(trajectory)
        for start in range(len(calls) - 2 * period + 1):
            once, again = calls[start : start + period], calls[start + period : start + 2 * period]
            if [call for _, call in once] == [call for _, call in again]:
                assert any(once[0][0] in span and again[-1][0] in span for span in spans[trajectory.id])
                seen.add(trajectory.id)
    assert seen <= spans.keys()
    assert len(seen) >= 12


def test_a_loop_is_three_rounds_or_more_and_a_repeated_call_two() -> None:
    every = {trajectory.id: trajectory for trajectory in trajectories()}
    for span in truth().spans:
        calls = [call for place, call in answered(every[span.trajectory]) if span.first <= place <= span.last]
        if span.kind is Kind.LOOP:
            assert any(len(calls) >= 3 * p and calls[p:] == calls[:-p] for p in (1, 2, 3))
        elif span.kind is Kind.REPEATED_CALL:
            assert len(calls) == 2
            assert calls[0] == calls[1]


def test_no_code_of_the_gym_is_unmarked() -> None:
    errors = {(span.trajectory, span.first) for span in truth().spans if span.kind in ERRORS}
    for trajectory in trajectories():
        for place, step in enumerate(trajectory.steps):
            if step.source == "tool" and step.content.startswith("E_"):
                assert (trajectory.id, place) in errors


def test_only_planted_leaks_share_a_request() -> None:
    files = defaultdict(set)
    tasks = defaultdict(set)
    for file, batch in enumerate(truth().batches):
        for trajectory in batch:
            request = " ".join(" ".join(step.content for step in trajectory.steps if step.source == "user").split())
            files[request].add(file)
            tasks[request].add(trajectory.task_id)
    shared = [request for request in tasks if len(tasks[request]) > 1]
    assert len(shared) == truth().cases(Kind.LEAK) - 6 * len(WORKPLACES), "six a work place are worded otherwise"
    assert all(len(files[request]) == 2 for request in shared)


@pytest.mark.parametrize("instance", WORKPLACES)
def test_what_the_lucky_skip_nearly_all_others_do(instance: str) -> None:
    first = WORKPLACES[instance].procedure[0].tool
    lucky = {each for group in truth().groups if group.kind is Kind.LUCKY for each in group.trajectories}
    files = [batch for batch, whose in zip(truth().batches, truth().instances, strict=True) if whose == instance]
    for batch in files:
        successes = [trajectory for trajectory in batch if trajectory.outcome.success]
        tools = {each.id: {call.name for step in each.steps for call in step.tool_calls} for each in successes}
        assert {each for each in tools if first not in tools[each]} == lucky & tools.keys()
        assert len(lucky & tools.keys()) < 0.1 * len(successes)
        for optional in ("history", "status", "note"):
            assert sum(optional in tools[each] for each in tools) < 0.5 * len(successes)


@pytest.mark.parametrize("in_verdicts", [True, False])
def test_who_knows_the_truth_scores_one(in_verdicts: bool) -> None:
    for each in scores(knows_all(in_verdicts)).values():
        assert (each.kind, each.precision, each.recall) == (each.kind, 1.0, 1.0)
        assert each.found == each.cases == truth().cases(each.kind)


def test_who_finds_nothing_scores_zero() -> None:
    for each in scores(untouched()).values():
        assert (each.kind, each.precision, each.recall, each.found, each.false) == (each.kind, None, 0.0, 0, 0)


def test_without_drafts_nothing_is_found() -> None:
    assert all(each.recall == 0.0 for each in scores([]).values())


def clean_draft(drafts: Sequence[Draft]) -> int:
    """The place of an episode in which nothing was planted."""
    planted_in = {span.trajectory for span in truth().spans} | {text.trajectory for text in truth().texts}
    planted_in.update(*(group.trajectories for group in truth().groups))
    return next(place for place, draft in enumerate(drafts) if draft.source.id not in planted_in)


def wrong_verdict(draft: Draft, kind: Kind) -> Draft:
    stage = STAGES.get(kind, "errors")
    return draft.with_steps(draft.steps, StageVerdict(stage, kind, "", None if kind in (Kind.LUCKY, Kind.LEAK) else 2))


def wrong_error(draft: Draft, kind: Kind) -> Draft:
    return draft.with_steps((*draft.steps[:3], replace(draft.steps[3], error=ERRORS[kind]), *draft.steps[4:]))


def wrong_reason(draft: Draft, kind: Kind) -> Draft:
    return draft.reject("dedupe", "duplicate", "")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, wrong_verdict) for kind in (*STAGES, *ERRORS)),
        *((kind, wrong_error) for kind in ERRORS),
        (Kind.DUPLICATE, wrong_reason),
    ],
)
def test_one_wrong_verdict_lowers_precision(kind: Kind, wrong: Callable[[Draft, Kind], Draft]) -> None:
    drafts = list(knows_all(in_verdicts=True))
    place = clean_draft(drafts)
    drafts[place] = wrong(drafts[place], kind)
    found = scores(drafts)
    assert found[kind].false == 1
    assert found[kind].precision == found[kind].cases / (found[kind].cases + 1)
    assert all(each.precision == each.recall == 1.0 for each in found.values() if each.kind is not kind)


@pytest.mark.parametrize("kind", [Kind.SECRET, Kind.PERSONAL])
def test_a_harmless_string_that_is_lost_lowers_precision(kind: Kind) -> None:
    drafts = list(knows_all(in_verdicts=True))
    text = next(text for text in truth().texts if text.kind is kind and text.harmless)
    place = next(place for place, draft in enumerate(drafts) if draft.source.id == text.trajectory)
    drafts[place] = replace(drafts[place], steps=tuple(scrubbed(each, text.parts) for each in drafts[place].steps))
    found = scores(drafts)[kind]
    assert (found.false, found.recall) == (1, 1.0)
    assert found.precision == found.cases / (found.cases + 1)


def test_a_key_is_not_gone_while_one_of_its_lines_is_left() -> None:
    text = next(text for text in truth().texts if len(text.parts) > 1)
    drafts = [
        replace(draft, steps=tuple(scrubbed(each, text.parts[1:]) for each in draft.steps))
        if draft.source.id == text.trajectory
        else draft
        for draft in untouched()
    ]
    assert scores(drafts)[text.kind].found == 0


def test_an_error_of_another_class_is_both_missed_and_wrong() -> None:
    drafts = list(knows_all(in_verdicts=False))
    span = next(span for span in truth().spans if span.kind is Kind.TRANSIENT)
    place = next(place for place, draft in enumerate(drafts) if draft.source.id == span.trajectory)
    steps = tuple(
        replace(placed, error=ErrorKind.CAUSAL) if placed.source_index == span.first else placed
        for placed in drafts[place].steps
    )
    drafts[place] = drafts[place].with_steps(steps)
    found = scores(drafts)
    assert found[Kind.TRANSIENT].found == found[Kind.TRANSIENT].cases - 1
    assert found[Kind.CAUSAL].false == 1


def test_dropping_the_original_too_is_wrong() -> None:
    drafts = list(knows_all(in_verdicts=True))
    group = next(group for group in truth().groups if group.kind is Kind.DUPLICATE)
    drafts = [
        replace(draft, rejected="duplicate") if draft.source.id in group.trajectories else draft for draft in drafts
    ]
    assert scores(drafts)[Kind.DUPLICATE].false == 1


def test_the_table_has_a_row_per_class() -> None:
    table = to_markdown([ClassScore(Kind.LOOP, cases=4, found=3, false=1), ClassScore(Kind.LEAK, 2, 0, 0)])
    assert table.splitlines()[2:] == ["| loop | 4 | 3 | 1 | 0.750 | 0.750 |", "| leak | 2 | 0 | 0 |  | 0.000 |"]
