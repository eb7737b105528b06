"""Tasks that are done again, and requests that come under two task ids."""

from dataclasses import replace
from random import Random

import orjson

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_files import FILES, EpisodeFiles, play
from looper.benchmarks.synthesis.planted_defects.script import HISTORY, NOTE, STATUS, Script, Written
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind, Group
from looper.platform.domain.trajectory import Step, Trajectory

WAYS: tuple[tuple[str, ...], ...] = ((), (HISTORY,), (STATUS,), (NOTE,), (HISTORY, STATUS, NOTE))
"""Different ways to do a task, by the tools that are used beside the needed ones."""

KEPT_WAYS = 3
"""How many different ways of one task are worth keeping."""


def copies(shelf: EpisodeFiles, number: int) -> None:
    """A task done one way two to four times, and in one or two other ways that are no copies."""
    task, ways = shelf.task(), shelf.rng.sample(WAYS, 1 + number % KEPT_WAYS)
    original = play(task, ways[0]).end()
    others = [again(original.trajectory, number + copy, shelf.rng) for copy in range(1 + number % 3)]
    shelf.put(original)
    for copy in others:
        shelf.put(Written(copy))
    for way in ways[1:]:
        shelf.put(play(task, way).end())
    ids = frozenset({original.trajectory.id, *(copy.id for copy in others)})
    shelf.groups.append(Group(DefectKind.DUPLICATE, ids, cases=len(others), most=len(others)))


def too_many(shelf: EpisodeFiles, number: int) -> None:
    """A task done in more ways than are worth keeping."""
    task = shelf.task()
    ids = frozenset(shelf.put(play(task, way).end()) for way in WAYS)
    shelf.groups.append(Group(DefectKind.DUPLICATE, ids, cases=len(ids) - KEPT_WAYS, most=len(ids) - KEPT_WAYS))


def some_ways(shelf: EpisodeFiles, number: int) -> None:
    """A control: a task done in as many ways as are worth keeping."""
    task = shelf.task()
    for way in shelf.rng.sample(WAYS, 2 + number % 2):
        shelf.put(play(task, way).end())


def leak(shelf: EpisodeFiles, number: int) -> None:
    """The two are done in different ways, so that neither is a copy of the other."""
    task, file = shelf.task(), shelf.rng.randrange(FILES)
    request = task.request.replace(" ", "  ") + "\n" if number % 3 == 2 else task.request
    one = shelf.put(play(task).end(), file)
    other = shelf.put(play(replace(task, id=shelf.task_id()), WAYS[-1], request=request).end(), 1 - file)
    shelf.groups.append(Group(DefectKind.LEAK, frozenset({one, other}), cases=1, most=2))


def near_leak(shelf: EpisodeFiles, number: int) -> None:
    """The request comes again in nearly the same words, in another file."""
    task, file = shelf.task(), shelf.rng.randrange(FILES)
    bare = task.request.strip().rstrip(".")
    request = (
        f"Hello, could you {bare.lower()}? Thank you!",
        f"{bare.replace(', ', ' - ')}, please",
        f"Hi! {bare.upper()}!!",
    )
    one = shelf.put(play(task).end(), file)
    other = shelf.put(play(replace(task, id=shelf.task_id()), WAYS[-1], request=request[number % 3]).end(), 1 - file)
    shelf.groups.append(Group(DefectKind.LEAK, frozenset({one, other}), cases=1, most=2))


def sibling(shelf: EpisodeFiles, number: int) -> None:
    """A control: nearly the same words, of another record."""
    task, file = shelf.task(), shelf.rng.randrange(FILES)
    words = task.request.split()
    at = next((at for at, word in enumerate(words) if any(map(str.isdigit, word))), len(words) // 2)
    words[at] = f"{words[at]}7" if any(map(str.isdigit, words[at])) else "something"
    shelf.put(play(task).end(), file)
    shelf.put(play(replace(task, id=shelf.task_id()), WAYS[-1], request=" ".join(words)).end(), 1 - file)


def greeting(shelf: EpisodeFiles, number: int) -> None:
    """A control: the first that many users say is the same, and is no request."""
    task = shelf.task()
    script = Script(task, "Hello, I need some help.")
    script.say("What can I do for you?")
    script.hear(task.request)
    script.work()
    shelf.put(script.end())


def again(trajectory: Trajectory, number: int, rng: Random) -> Trajectory:
    """The same episode once more: exactly, or with other ids, other spacing, or other words around the calls."""
    change = [_same, _other_ids, _other_spacing, _other_words][number % 4]
    return Trajectory.of(
        task_id=trajectory.task_id,
        format=trajectory.format,
        steps=change(trajectory.steps, rng),
        outcome=trajectory.outcome,
        tools=trajectory.tools,
    )


def _same(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    return steps


def _other_ids(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    ids = {call.id: f"toolu_{rng.randbytes(8).hex()}" for step in steps for call in step.tool_calls}
    return tuple(
        step.model_copy(
            update={
                "call_id": ids.get(step.call_id or ""),
                "tool_calls": tuple(call.model_copy(update={"id": ids[call.id]}) for call in step.tool_calls),
                "timestamp": f"2025-03-01T10:{place:02d}:{rng.randrange(60):02d}Z",
            }
        )
        for place, step in enumerate(steps)
    )


def _other_spacing(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    return tuple(
        step.model_copy(
            update={
                "content": f" {step.content.replace(' ', '  ')}\n" if step.content else "",
                "tool_calls": tuple(
                    call.model_copy(update={"arguments": orjson.dumps(orjson.loads(call.arguments)).decode()})
                    for call in step.tool_calls
                ),
            }
        )
        for step in steps
    )


def _other_words(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    def reworded(step: Step) -> Step:
        if step.source != "agent":
            return step
        said = rng.choice(texts.REMARKS[1:]) if step.tool_calls else rng.choice(("Done.", "All done.", "That is it."))
        return step.model_copy(update={"content": said})

    return tuple(reworded(step) for step in steps)
