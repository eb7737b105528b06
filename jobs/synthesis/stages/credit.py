"""The credit stage: which steps and which successes deserve less weight.

It compares an episode with the other episodes of its task and with all successes of its instance. ``pipeline/`` first
collects the ``ToolHabits`` of an instance, then calls the other functions for each task.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from looper.jobs.synthesis.actions import Action, call_signature, extract_actions, is_read_only_tool, parse_arguments
from looper.jobs.synthesis.draft import Draft, ErrorKind, Grade, StageVerdict
from looper.platform.domain.trajectory import ToolCall

STAGE = "credit"

MINOR_STEP_WEIGHT = 0.5
"""Weight of an action that made no difference: failed episodes of the task have it too, and no change came after it."""

LUCKY_SUCCESS_WEIGHT = 0.1
"""Weight of a success that left out what nearly all other successes did."""

CONTRADICTED_SUCCESS_WEIGHT = 0.1
"""Weight of an unchecked success whose writes differ from those of checked successes of the same task."""

USUAL_SHARE = 0.9
"""Share of successes with the same last tool that must have used another tool to make it usual."""

MIN_HABIT_EPISODES = 10
"""Minimum number of successes with the same last tool before any tool counts as usual."""


@dataclass(frozen=True)
class ToolHabits:
    """Which tools the successes of an instance used before the last one.

    Counts of several parts of an instance can be added.
    """

    episodes_by_last_tool: Counter[str]
    """Number of successes by the last tool they used."""
    episodes_by_tool_pair: Counter[tuple[str, str]]
    """Number of successes by last tool and another tool that was used before it."""

    @classmethod
    def empty(cls) -> Self:
        """Return habits without episodes."""
        return cls(Counter(), Counter())

    @classmethod
    def from_tool_sequences(cls, episodes: Iterable[Sequence[str]]) -> Self:
        """Count the tools of successes.

        Args:
            episodes: The ``successful_tools`` of each success, none of them empty.

        Returns:
            The counts.
        """
        habits = cls.empty()
        for tools in episodes:
            last = tools[-1]
            habits.episodes_by_last_tool[last] += 1
            habits.episodes_by_tool_pair.update((last, tool) for tool in set(tools[:-1]) - {last})
        return habits

    def to_json(self) -> list[Any]:
        """Return a JSON value that ``from_json`` reads."""
        pairs = [(last, tool, count) for (last, tool), count in self.episodes_by_tool_pair.items()]
        return [[*self.episodes_by_last_tool.items()], pairs]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the habits that ``to_json`` wrote to ``value``."""
        by_last_tool, pairs = value
        return cls(Counter(dict(by_last_tool)), Counter({(last, tool): count for last, tool, count in pairs}))

    def __add__(self, other: "ToolHabits") -> "ToolHabits":
        """Add the counts of two parts of an instance."""
        return ToolHabits(
            self.episodes_by_last_tool + other.episodes_by_last_tool,
            self.episodes_by_tool_pair + other.episodes_by_tool_pair,
        )

    def usual_tools(self, last: str) -> frozenset[str]:
        """Return the tools that nearly all successes used before their last tool.

        Args:
            last: The last tool.

        Returns:
            Names of tools; empty if there are fewer than ``MIN_HABIT_EPISODES`` successes.
        """
        episodes = self.episodes_by_last_tool[last]
        if episodes < MIN_HABIT_EPISODES:
            return frozenset()
        return frozenset(
            tool
            for (end, tool), count in self.episodes_by_tool_pair.items()
            if end == last and count >= USUAL_SHARE * episodes
        )


def successful_tools(draft: Draft) -> tuple[str, ...]:
    """Return the tools that a successful episode used without an error.

    Args:
        draft: The episode, with the kinds of its errors set.

    Returns:
        Names of tools in the order of the calls; empty if the episode did not succeed.
    """
    if not draft.source.outcome.success:
        return ()
    return tuple(
        call.name
        for action in extract_actions(draft.steps)
        for call, error in zip(action.calls, action.errors, strict=False)
        if error is None
    )


def downweight_lucky_success(draft: Draft, habits: ToolHabits) -> Draft:
    """Reduce the weight of a success that left out a usual tool: it may only have been lucky.

    Args:
        draft: The graded episode.
        habits: Habits of the whole instance.

    Returns:
        The draft, with at most ``LUCKY_SUCCESS_WEIGHT`` if it left out a tool.
    """
    tools = successful_tools(draft)
    if draft.rejected or not tools:
        return draft
    left_out = sorted(habits.usual_tools(tools[-1]) - set(tools))
    if not left_out:
        return draft
    detail = f"it ends with {tools[-1]} without {', '.join(left_out)}, which nearly all successes use"
    verdict = StageVerdict(STAGE, "lucky", detail)
    return replace(draft, weight=min(draft.weight, LUCKY_SUCCESS_WEIGHT), verdicts=(*draft.verdicts, verdict))


def downweight_contradicted_successes(task: Sequence[Draft]) -> list[Draft]:
    """Reduce the weight of unchecked successes that contradict the checked successes of their task.

    A contradiction is a write by the same tool to the same record with other argument values than in every checked
    success. More or fewer writes are no contradiction.

    Args:
        task: All drafts of one task, graded.

    Returns:
        The drafts in the same order; contradicted ones have at most ``CONTRADICTED_SUCCESS_WEIGHT``.
    """
    checked = defaultdict[_WriteTarget, list[dict[str, object]]](list)
    for draft in task:
        if draft.grade is Grade.VERIFIED and not draft.rejected:
            for target, arguments in _final_writes(draft).items():
                checked[target].append(arguments)

    def downweight(draft: Draft) -> Draft:
        if draft.grade is not Grade.STATED or draft.rejected:
            return draft
        for target, arguments in _final_writes(draft).items():
            if checked[target] and arguments not in checked[target]:
                detail = f"{target.tool} was called with other arguments than in checked successes of the task"
                verdict = StageVerdict(STAGE, "contradicted", detail)
                weight = min(draft.weight, CONTRADICTED_SUCCESS_WEIGHT)
                return replace(draft, weight=weight, verdicts=(*draft.verdicts, verdict))
        return draft

    return [downweight(draft) for draft in task]


class _WriteTarget(NamedTuple):
    """What a call writes to. The first argument of a call counts as the id of the record."""

    tool: str
    record: str
    """Name and value of the first argument."""
    argument_names: frozenset[str]


def _write_target(call: ToolCall, arguments: dict[str, object]) -> _WriteTarget:
    return _WriteTarget(call.name, repr(next(iter(arguments.items()))), frozenset(arguments))


def _final_writes(draft: Draft) -> dict[_WriteTarget, dict[str, object]]:
    """Return the arguments of the last write to each target."""
    writes: dict[_WriteTarget, dict[str, object]] = {}
    for action in extract_actions(draft.steps):
        for call, error in zip(action.calls, action.errors, strict=False):
            arguments = parse_arguments(call)
            if arguments and error is None and not is_read_only_tool(call.name):
                writes[_write_target(call, arguments)] = arguments
    return writes


def assign_step_credit(task: Sequence[Draft]) -> list[Draft]:
    """Weigh the steps of all episodes of one task.

    A wrong call gets weight 0, and so does a write that the agent itself corrected later; the correction keeps its
    weight. After the last change of an episode, calls that failed episodes of the task have too get
    ``MINOR_STEP_WEIGHT``.

    Args:
        task: All drafts of one task, with the kinds of their errors set.

    Returns:
        The drafts in the same order. Failed episodes are not changed.
    """
    failures = [draft for draft in task if draft.source.outcome.success is False]
    failed_signatures = {
        signature for draft in failures for action in extract_actions(draft.steps) for signature in action.signatures
    }
    return [
        draft if draft.source.outcome.success is False else _weigh_steps(draft, failed_signatures) for draft in task
    ]


def _weigh_steps(draft: Draft, failed_signatures: set[str]) -> Draft:
    actions = extract_actions(draft.steps)
    corrected = _corrected_writes(actions)
    last_write = max((number for number, action in enumerate(actions) if action.changed_state), default=-1)
    weights: dict[int, float] = {}
    verdicts = []
    for number, action in enumerate(actions):
        name, place = action.calls[0].name, draft.steps[action.index].source_index
        if ErrorKind.CAUSAL in action.errors:
            weights[action.index] = 0.0
            verdicts.append(StageVerdict(STAGE, "caused_error", f"{name} was called wrongly", place))
        elif draft.grade is not Grade.UNLABELED and number in corrected:
            weights[action.index] = 0.0
            verdicts.append(StageVerdict(STAGE, "put_right", f"{name} was corrected by a later call", place))
        elif number > last_write >= 0 and failed_signatures.issuperset(action.signatures):
            weights[action.index] = MINOR_STEP_WEIGHT
    steps = (
        replace(step, weight=min(step.weight, weights[index])) if index in weights else step
        for index, step in enumerate(draft.steps)
    )
    return draft.with_steps(tuple(steps), *verdicts)


def _corrected_writes(actions: Sequence[Action]) -> frozenset[int]:
    """Return the numbers of writes that a later call of the tool repeats with other values in the same segment."""
    corrected = set()
    later: defaultdict[tuple[int, _WriteTarget], set[str]] = defaultdict(set)
    for number, action in reversed(list(enumerate(actions))):
        writes = [
            (_segment_target(action, call), call_signature(call))
            for call, error in zip(action.calls, action.errors, strict=False)
            if error is None and not is_read_only_tool(call.name)
        ]
        if len(action.calls) == 1 and writes:
            target, signature = writes[0]
            if target and later[target] - {signature}:
                corrected.add(number)
        for target, signature in writes:
            if target:
                later[target].add(signature)
    return frozenset(corrected)


def _segment_target(action: Action, call: ToolCall) -> tuple[int, _WriteTarget] | None:
    """Return the work segment and target of a write, or None if it has no argument beside the record's id."""
    arguments = parse_arguments(call)
    if not arguments or len(arguments) < 2:
        return None
    return action.segment, _write_target(call, arguments)
