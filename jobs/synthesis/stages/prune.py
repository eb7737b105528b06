"""Detours: what was done again in vain leaves, and ways that led nowhere stay as context that is not learned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from looper.jobs.synthesis.actions import Action, actions
from looper.jobs.synthesis.draft import Draft, Error, Placed, StageVerdict

STAGE = "prune"
LONGEST_CYCLE = 4
"""Actions in the longest cycle that is looked for."""


@dataclass(frozen=True)
class _Repeat:
    """``done[first : first + length]``, which came ``times`` in a row."""

    first: int
    length: int
    times: int

    @property
    def after(self) -> int:
        return self.first + self.length * self.times


def prune(draft: Draft) -> Draft:
    """Collapse repeated calls, cut loops at their onset, drop what broken tools said, unlearn ways that led nowhere."""
    return _unlearn_ways_back(_drop_broken(_drop_repeats(draft)))


def _drop_repeats(draft: Draft) -> Draft:
    """A call made twice in a row and answered the same is made once. Three times, or two actions or more in turn, is a
    loop: its first pass stays, and if the episode ended in it, is not learned.
    """
    done = actions(draft.steps)
    gone: set[int] = set()
    unlearned: set[int] = set()
    verdicts = []
    for repeat in _repeats(done):
        dropped = done[repeat.first + repeat.length : repeat.after]
        gone |= {at for action in dropped for at in (action.at, *action.answers)}
        what = "loop" if repeat.length > 1 or repeat.times > 2 else "repeated_call"
        if what == "loop" and repeat.after == len(done) and not _goes_on(draft.steps, done[-1]):
            unlearned |= {action.at for action in done[repeat.first : repeat.first + repeat.length]}
        calls = " then ".join(action.calls[0].name for action in done[repeat.first : repeat.first + repeat.length])
        verdicts.append(
            StageVerdict(STAGE, what, f"{calls}: {repeat.times} times in a row", draft.steps[dropped[0].at].place)
        )
    steps = [
        replace(each, weight=0.0) if at in unlearned else each for at, each in enumerate(draft.steps) if at not in gone
    ]
    return draft.with_steps(tuple(steps), *verdicts)


def _repeats(done: Sequence[Action]) -> Iterator[_Repeat]:
    """What comes again in a row, one after another, the shortest cycle first."""
    at = 0
    while at < len(done):
        found = next(filter(None, (_repeat(done, at, length) for length in range(1, LONGEST_CYCLE + 1))), None)
        if found is None:
            at += 1
        else:
            yield found
            at = found.after


def _repeat(done: Sequence[Action], first: int, length: int) -> _Repeat | None:
    cycle, times = done[first : first + length], 1
    while _same(cycle, done[first + length * times : first + length * (times + 1)]):
        times += 1
    return _Repeat(first, length, times) if times > 1 else None


def _same(some: Sequence[Action], others: Sequence[Action]) -> bool:
    """Whether the same was called and the same came back, with no request of the user between.

    Trying again what was down for a moment is no loop.
    """
    return len(some) == len(others) and all(
        _key(one) == _key(other) and Error.TRANSIENT not in one.errors for one, other in zip(some, others, strict=True)
    )


def _goes_on(steps: Sequence[Placed], last: Action) -> bool:
    """Whether the agent says anything after its last call."""
    return any(each.step.source == "agent" for each in steps[last.at + 1 :])


def _drop_broken(draft: Draft) -> Draft:
    """Calls that met a broken tool leave, with its answer: there is nothing to be learned from a tool's own bug."""
    broken = {each.step.call_id for each in draft.steps if each.error is Error.ENVIRONMENT}
    if not broken:
        return draft
    steps, verdicts = [], []
    for each in draft.steps:
        if each.step.source == "tool" and each.step.call_id in broken:
            verdicts.append(StageVerdict(STAGE, "environment_bug", "the tool broke; the call leaves", each.place))
            continue
        kept = tuple(call for call in each.step.tool_calls if call.id not in broken)
        if each.step.tool_calls and not kept and not each.step.content.strip():
            continue
        steps.append(replace(each, step=each.step.model_copy(update={"tool_calls": kept})))
    return draft.with_steps(tuple(steps), *verdicts)


def _unlearn_ways_back(draft: Draft) -> Draft:
    """Where the agent is back where it was, the same call giving the same answer, and all between failed: weight 0."""
    done = actions(draft.steps)
    unlearned: set[int] = set()
    verdicts = []
    for first, last in _ways_back(done):
        unlearned |= {each.at for each in done[first + 1 : last + 1]}
        place = draft.steps[done[first + 1].at].place
        verdicts.append(StageVerdict(STAGE, "backtrack", f"back at {done[first].calls[0].name}, nothing gained", place))
    steps = (replace(each, weight=0.0) if at in unlearned else each for at, each in enumerate(draft.steps))
    return draft.with_steps(tuple(steps), *verdicts)


def _ways_back(done: Sequence[Action]) -> Iterator[tuple[int, int]]:
    """Of each action that is followed by failures and then by itself, its number and that of its return."""
    seen: dict[_Key, int] = {}
    back: dict[int, int] = {}
    gained = len(done)  # the first action from here on that did not fail
    for number in reversed(range(len(done) - 1)):
        after = number + 2
        if after < len(done):
            seen[_key(done[after])] = after
        if not done[number + 1].failed:
            gained = number + 1
        last = seen.get(_key(done[number]))
        if last is not None and gained >= last and Error.TRANSIENT not in done[number].errors:
            back[number] = last
    return iter(sorted(back.items()))


_Key = tuple[int, tuple[str, ...], tuple[str, ...]]


def _key(action: Action) -> _Key:
    return action.segment, action.signature, action.observed
