"""Which steps mattered, told from the episode itself, from others of its task, and from all of its instance."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

from looper.jobs.synthesis.actions import Action, actions, parsed, reads, signature
from looper.jobs.synthesis.draft import Draft, Error, Grade, StageVerdict
from looper.platform.domain.trajectory import ToolCall

STAGE = "credit"

MINOR = 0.5
"""Weight of an action that made no difference: failed episodes of the task have it too, and no change came after."""

LUCKY = 0.1
"""Weight of a success that left out what nearly all others did."""

DOUBTFUL = 0.1
"""Weight of a success that nobody checked, where checked successes of the same task wrote something else."""

USUAL = 0.9
FEWEST = 10
"""What that share of successes with the same last action did, of so many at least, is the way of the house."""


@dataclass(frozen=True)
class Habits:
    """Of an instance's successes: which tools were used before the one that ended the work.

    ``ended`` counts episodes by their last tool, ``before`` those in which another was used before it. Habits of parts
    of an instance's episodes add up.
    """

    ended: Counter[str]
    before: Counter[tuple[str, str]]

    @classmethod
    def none(cls) -> Self:
        return cls(Counter(), Counter())

    @classmethod
    def of(cls, episodes: Iterable[Sequence[str]]) -> Self:
        """Of what ``worked`` in each."""
        found = cls.none()
        for tools in episodes:
            found.ended[tools[-1]] += 1
            found.before.update((tools[-1], tool) for tool in set(tools[:-1]) - {tools[-1]})
        return found

    def to_json(self) -> list[Any]:
        return [[*self.ended.items()], [(end, tool, times) for (end, tool), times in self.before.items()]]

    @classmethod
    def from_json(cls, value: Any) -> Self:
        ended, before = value
        return cls(Counter(dict(ended)), Counter({(end, tool): times for end, tool, times in before}))

    def __add__(self, other: "Habits") -> "Habits":
        return Habits(self.ended + other.ended, self.before + other.before)

    def usual(self, last: str) -> frozenset[str]:
        """What nearly all who ended with ``last`` had used before it."""
        count = self.ended[last]
        if count < FEWEST:
            return frozenset()
        return frozenset(tool for (end, tool), times in self.before.items() if end == last and times >= USUAL * count)


def worked(draft: Draft) -> tuple[str, ...]:
    """The tools that an episode used without an error, in order; none of one that did not succeed."""
    if not draft.source.outcome.success:
        return ()
    return tuple(
        call.name
        for action in actions(draft.steps)
        for call, error in zip(action.calls, action.errors, strict=False)
        if error is None
    )


def discount_luck(draft: Draft, of: Habits) -> Draft:
    """A success that left out what the house asks for, and was lucky, weighs little."""
    tools = worked(draft)
    if draft.rejected or not tools:
        return draft
    left_out = sorted(of.usual(tools[-1]) - set(tools))
    if not left_out:
        return draft
    verdict = StageVerdict(
        STAGE, "lucky", f"ends with {tools[-1]} without {', '.join(left_out)}, as hardly anybody does"
    )
    return replace(draft, weight=min(draft.weight, LUCKY), verdicts=(*draft.verdicts, verdict))


def doubt(task: Sequence[Draft]) -> list[Draft]:
    """A success judged by what was said weighs little if it wrote otherwise than all checked ones of its task.

    Otherwise is the same tool on the same record with other arguments: to have done more, or less, is no contradiction.
    """
    checked = defaultdict[_Written, list[dict[str, object]]](list)
    for draft in task:
        if draft.grade is Grade.VERIFIED and not draft.rejected:
            for written, arguments in _written(draft).items():
                checked[written].append(arguments)

    def judge(draft: Draft) -> Draft:
        if draft.grade is not Grade.STATED or draft.rejected:
            return draft
        for written, arguments in _written(draft).items():
            if checked[written] and arguments not in checked[written]:
                verdict = StageVerdict(
                    STAGE, "contradicted", f"{written[0]}: checked episodes of the task wrote otherwise"
                )
                return replace(draft, weight=min(draft.weight, DOUBTFUL), verdicts=(*draft.verdicts, verdict))
        return draft

    return [judge(draft) for draft in task]


_Written: TypeAlias = tuple[str, str, str, frozenset[str]]
"""A tool, the name and value of the record it wrote to, and the names of all its arguments."""


def _written(draft: Draft) -> dict[_Written, dict[str, object]]:
    """What an episode left written, with the arguments of the last time."""
    found: dict[_Written, dict[str, object]] = {}
    for action in actions(draft.steps):
        for call, error in zip(action.calls, action.errors, strict=False):
            arguments = parsed(call)
            if arguments and error is None and not reads(call.name):
                name, value = next(iter(arguments.items()))
                found[call.name, name, repr(value), frozenset(arguments)] = arguments
    return found


def attribute(task: Sequence[Draft]) -> list[Draft]:
    """Weigh the steps of all episodes of one task.

    A call that was wrong, and a write that the agent itself put right later, are not learned; what put them right is.
    Of the other calls, those after the last change that failed episodes have as well are minor.
    """
    failures = [draft for draft in task if draft.source.outcome.success is False]
    common = {signature for draft in failures for action in actions(draft.steps) for signature in action.signature}
    return [_attribute(draft, common) if draft.source.outcome.success is not False else draft for draft in task]


def _attribute(draft: Draft, common: set[str]) -> Draft:
    done = actions(draft.steps)
    put_right = _put_right(done)
    weights: dict[int, float] = {}
    verdicts = []
    last_write = max((number for number, action in enumerate(done) if action.writes), default=-1)
    for number, action in enumerate(done):
        place = draft.steps[action.at].place
        if Error.CAUSAL in action.errors:
            weights[action.at] = 0.0
            verdicts.append(StageVerdict(STAGE, "caused_error", f"{action.calls[0].name} was called wrongly", place))
        elif draft.grade is not Grade.UNLABELLED and number in put_right:
            weights[action.at] = 0.0
            verdicts.append(StageVerdict(STAGE, "put_right", f"{action.calls[0].name} was done again otherwise", place))
        elif number > last_write >= 0 and common.issuperset(action.signature):
            weights[action.at] = MINOR
    steps = (
        replace(each, weight=min(each.weight, weights[at])) if at in weights else each
        for at, each in enumerate(draft.steps)
    )
    return draft.with_steps(tuple(steps), *verdicts)


def _put_right(done: Sequence[Action]) -> frozenset[int]:
    """Writes that one tool made again to the same record, with other arguments, before the user asked anew."""
    found = set()
    later: defaultdict[_Write, set[str]] = defaultdict(set)
    for number, action in reversed(list(enumerate(done))):
        writes = [
            (_write(action, call), signature(call))
            for call, error in zip(action.calls, action.errors, strict=False)
            if error is None and not reads(call.name)
        ]
        if len(action.calls) == 1 and writes:
            write, made = writes[0]
            if write and later[write] - {made}:
                found.add(number)
        for write, made in writes:
            if write:
                later[write].add(made)
    return frozenset(found)


_Write = tuple[int, str, str, frozenset[str]]


def _write(action: Action, call: ToolCall) -> _Write | None:
    """What tells a write to one record from others: when, by which tool, the record, and which arguments it takes."""
    arguments = parsed(call)
    if not arguments or len(arguments) < 2:
        return None
    return action.segment, call.name, repr(next(iter(arguments.items()))), frozenset(arguments)
