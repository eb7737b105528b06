"""The prune stage: remove repeated calls and broken tools, and keep dead ends only as context.

``pipeline/stages.py`` calls it after ``classify_errors`` and ``segment``, whose results it needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from looper.jobs.synthesis.actions import Action, extract_actions
from looper.jobs.synthesis.draft import Draft, DraftStep, ErrorKind, StageVerdict

STAGE = "prune"

MAX_CYCLE_LENGTH = 4
"""Maximum number of actions in a cycle that counts as a loop."""


def prune(draft: Draft) -> Draft:
    """Collapse repeated calls, cut loops at their start, drop calls of broken tools, and ignore dead ends in the loss.

    Args:
        draft: The episode, with error kinds and segments set.

    Returns:
        The draft with fewer steps, some of them with weight 0, and a verdict for each change.
    """
    return _unlearn_dead_ends(_drop_broken_calls(_drop_repeats(draft)))


@dataclass(frozen=True)
class _Repeat:
    """A cycle of actions that comes several times in a row: ``actions[first : first + length]``."""

    first: int
    length: int
    times: int

    @property
    def end(self) -> int:
        """Number of the action after the last repetition."""
        return self.first + self.length * self.times


def _drop_repeats(draft: Draft) -> Draft:
    """Keep the first pass of each repetition.

    A call that is made twice in a row with the same result is a repeated call. Three times, or a cycle of two actions
    or more, is a loop. If the episode ended in a loop, its first pass is not learned either.
    """
    actions = extract_actions(draft.steps)
    dropped: set[int] = set()
    unlearned: set[int] = set()
    verdicts = []
    for repeat in _find_repeats(actions):
        cycle = actions[repeat.first : repeat.first + repeat.length]
        repetitions = actions[repeat.first + repeat.length : repeat.end]
        dropped |= {index for action in repetitions for index in (action.index, *action.result_indices)}
        is_loop = repeat.length > 1 or repeat.times > 2
        if is_loop and repeat.end == len(actions) and not _speaks_after(draft.steps, actions[-1]):
            unlearned |= {action.index for action in cycle}
        detail = f"{' then '.join(action.calls[0].name for action in cycle)} came {repeat.times} times in a row"
        place = draft.steps[repetitions[0].index].source_index
        verdicts.append(StageVerdict(STAGE, "loop" if is_loop else "repeated_call", detail, place))
    steps = [
        replace(step, weight=0.0) if index in unlearned else step
        for index, step in enumerate(draft.steps)
        if index not in dropped
    ]
    return draft.with_steps(tuple(steps), *verdicts)


def _find_repeats(actions: Sequence[Action]) -> Iterator[_Repeat]:
    """Yield repetitions in order, without overlap. Of several at one place, the one with the shortest cycle counts."""
    number = 0
    while number < len(actions):
        repeats = (_repeat_at(actions, number, length) for length in range(1, MAX_CYCLE_LENGTH + 1))
        repeat = next(filter(None, repeats), None)
        if repeat is None:
            number += 1
        else:
            yield repeat
            number = repeat.end


def _repeat_at(actions: Sequence[Action], first: int, length: int) -> _Repeat | None:
    cycle, times = actions[first : first + length], 1
    while _are_equal(cycle, actions[first + length * times : first + length * (times + 1)]):
        times += 1
    return _Repeat(first, length, times) if times > 1 else None


def _are_equal(cycle: Sequence[Action], other: Sequence[Action]) -> bool:
    """Return whether both make the same calls with the same results in one segment.

    A retry after a temporary failure is no repetition.
    """
    return len(cycle) == len(other) and all(
        _key(first) == _key(second) and ErrorKind.TRANSIENT not in first.errors
        for first, second in zip(cycle, other, strict=True)
    )


def _speaks_after(steps: Sequence[DraftStep], action: Action) -> bool:
    """Return whether the agent says anything after ``action``."""
    return any(step.step.source == "agent" for step in steps[action.index + 1 :])


def _drop_broken_calls(draft: Draft) -> Draft:
    """Drop calls that met a bug of the tool, and their results, because they teach nothing."""
    broken = {step.step.call_id for step in draft.steps if step.error is ErrorKind.ENVIRONMENT}
    if not broken:
        return draft
    steps, verdicts = [], []
    for step in draft.steps:
        if step.step.source == "tool" and step.step.call_id in broken:
            detail = "the tool was broken, so the call was removed"
            verdicts.append(StageVerdict(STAGE, "environment_bug", detail, step.source_index))
            continue
        kept = tuple(call for call in step.step.tool_calls if call.id not in broken)
        if step.step.tool_calls and not kept and not step.step.content.strip():
            continue
        steps.append(replace(step, step=step.step.model_copy(update={"tool_calls": kept})))
    return draft.with_steps(tuple(steps), *verdicts)


def _unlearn_dead_ends(draft: Draft) -> Draft:
    """Give weight 0 to the way from an action to its repetition with the same result, if all between them failed."""
    actions = extract_actions(draft.steps)
    unlearned: set[int] = set()
    verdicts = []
    for first, last in _find_dead_ends(actions):
        unlearned |= {action.index for action in actions[first + 1 : last + 1]}
        detail = f"the agent returned to {actions[first].calls[0].name} after failed calls only"
        place = draft.steps[actions[first + 1].index].source_index
        verdicts.append(StageVerdict(STAGE, "backtrack", detail, place))
    steps = (replace(step, weight=0.0) if index in unlearned else step for index, step in enumerate(draft.steps))
    return draft.with_steps(tuple(steps), *verdicts)


def _find_dead_ends(actions: Sequence[Action]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of an action and of its repetition, where all actions between them failed."""
    next_equal: dict[_Key, int] = {}
    dead_ends: dict[int, int] = {}
    next_success = len(actions)  # the first action after the current one that did not fail
    for number in reversed(range(len(actions) - 1)):
        if number + 2 < len(actions):
            next_equal[_key(actions[number + 2])] = number + 2
        if not actions[number + 1].all_failed:
            next_success = number + 1
        repetition = next_equal.get(_key(actions[number]))
        is_retry = ErrorKind.TRANSIENT in actions[number].errors
        if repetition is not None and next_success >= repetition and not is_retry:
            dead_ends[number] = repetition
    return iter(sorted(dead_ends.items()))


_Key = tuple[int, tuple[str, ...], tuple[str, ...]]


def _key(action: Action) -> _Key:
    """Return a key that is equal for the same calls with the same results in one segment."""
    return action.segment, action.signatures, action.observations
