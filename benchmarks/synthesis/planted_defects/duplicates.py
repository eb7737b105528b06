"""Plant duplicates, and requests that come with two task ids. ``trajectories.py`` calls the ``add_*`` functions."""

from dataclasses import replace
from random import Random

import orjson

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_files import FILE_COUNT, EpisodeFiles, play_expert
from looper.benchmarks.synthesis.planted_defects.episode_script import (
    HISTORY,
    NOTE,
    STATUS,
    EpisodeScript,
    FinishedEpisode,
)
from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind, PlantedGroup
from looper.gym.workplace import WorkplaceTask
from looper.platform.domain.trajectory import Step, Trajectory

OPTIONAL_TOOL_SETS: tuple[tuple[str, ...], ...] = ((), (HISTORY,), (STATUS,), (NOTE,), (HISTORY, STATUS, NOTE))
"""Different ways to do one task, which differ in the optional tools that are used."""

MAX_KEPT_VARIANTS = 3
"""How many different ways to do one task a pipeline should keep."""


def add_duplicates(files: EpisodeFiles, number: int) -> None:
    """Add one to three copies of an episode to ``files``, and none to two other ways to do its task.

    ``number`` selects how many.
    """
    task, variants = files.new_task(), files.rng.sample(OPTIONAL_TOOL_SETS, 1 + number % MAX_KEPT_VARIANTS)
    original = play_expert(task, variants[0]).finish()
    copies = [copy_episode(original.trajectory, number + copy, files.rng) for copy in range(1 + number % 3)]
    files.add_episode(original)
    for copy in copies:
        files.add_episode(FinishedEpisode(copy))
    for optional_tools in variants[1:]:
        files.add_episode(play_expert(task, optional_tools).finish())
    ids = frozenset({original.trajectory.id, *(copy.id for copy in copies)})
    files.groups.append(PlantedGroup(DefectKind.DUPLICATE, ids, cases=len(copies), max_named=len(copies)))


def add_too_many_variants(files: EpisodeFiles, number: int) -> None:
    """Add a task to ``files`` that is done in more ways than a pipeline should keep. ``number`` is not used."""
    task = files.new_task()
    ids = frozenset(
        files.add_episode(play_expert(task, optional_tools).finish()) for optional_tools in OPTIONAL_TOOL_SETS
    )
    surplus = len(ids) - MAX_KEPT_VARIANTS
    files.groups.append(PlantedGroup(DefectKind.DUPLICATE, ids, cases=surplus, max_named=surplus))


def add_kept_variants(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: a task that is done in as many ways as a pipeline should keep, or fewer.

    ``number`` selects how many.
    """
    task = files.new_task()
    for optional_tools in files.rng.sample(OPTIONAL_TOOL_SETS, 2 + number % 2):
        files.add_episode(play_expert(task, optional_tools).finish())


def add_leak(files: EpisodeFiles, number: int) -> None:
    """Add one request with two task ids to two of ``files``. ``number`` selects the spacing of the second one.

    The two tasks are done in different ways, so neither episode is a copy of the other.
    """
    task, file = files.new_task(), files.rng.randrange(FILE_COUNT)
    request = task.request.replace(" ", "  ") + "\n" if number % 3 == 2 else task.request
    _add_leaked_request(files, task, file, request)


def add_reworded_leak(files: EpisodeFiles, number: int) -> None:
    """Add a request and nearly the same words again to two of ``files``. ``number`` selects the wording."""
    task, file = files.new_task(), files.rng.randrange(FILE_COUNT)
    text = task.request.strip().rstrip(".")
    requests = (
        f"Hello, could you {text.lower()}? Thank you!",
        f"{text.replace(', ', ' - ')}, please",
        f"Hi! {text.upper()}!!",
    )
    _add_leaked_request(files, task, file, requests[number % 3])


def add_similar_request(files: EpisodeFiles, number: int) -> None:
    """Add a control to two of ``files``: nearly the same request about another record. ``number`` is not used."""
    task, file = files.new_task(), files.rng.randrange(FILE_COUNT)
    words = task.request.split()
    index = next((index for index, word in enumerate(words) if any(map(str.isdigit, word))), len(words) // 2)
    words[index] = f"{words[index]}7" if any(map(str.isdigit, words[index])) else "something"
    _add_two_tasks(files, task, file, " ".join(words))


def add_shared_greeting(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: the first message is a greeting that many users share. ``number`` is not used."""
    task = files.new_task()
    script = EpisodeScript(task, "Hello, I need some help.")
    script.add_agent_message("What can I do for you?")
    script.add_user_message(task.request)
    script.finish_task()
    files.add_episode(script.finish())


def copy_episode(trajectory: Trajectory, number: int, rng: Random) -> Trajectory:
    """Copy an episode exactly, or with other ids, other spacing, or other words around the calls.

    Args:
        trajectory: The episode.
        number: Selects the kind of copy.
        rng: Random numbers for the changes.

    Returns:
        The copy.
    """
    change = [_unchanged, _change_ids, _change_spacing, _change_words][number % 4]
    return Trajectory.create(
        task_id=trajectory.task_id,
        format=trajectory.format,
        steps=change(trajectory.steps, rng),
        outcome=trajectory.outcome,
        tools=trajectory.tools,
    )


def _add_leaked_request(files: EpisodeFiles, task: WorkplaceTask, file: int, request: str) -> None:
    ids = frozenset(_add_two_tasks(files, task, file, request))
    files.groups.append(PlantedGroup(DefectKind.LEAK, ids, cases=1, max_named=2))


def _add_two_tasks(files: EpisodeFiles, task: WorkplaceTask, file: int, request: str) -> tuple[str, str]:
    """Add ``task`` to one file, and a task with another id and with ``request`` to the other file."""
    first = files.add_episode(play_expert(task).finish(), file)
    other_task = replace(task, id=files.new_task_id())
    script = play_expert(other_task, OPTIONAL_TOOL_SETS[-1], request=request)
    return first, files.add_episode(script.finish(), 1 - file)


def _unchanged(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    return steps


def _change_ids(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    ids = {call.id: f"toolu_{rng.randbytes(8).hex()}" for step in steps for call in step.tool_calls}
    return tuple(
        step.model_copy(
            update={
                "call_id": ids.get(step.call_id or ""),
                "tool_calls": tuple(call.model_copy(update={"id": ids[call.id]}) for call in step.tool_calls),
                "timestamp": f"2025-03-01T10:{index:02d}:{rng.randrange(60):02d}Z",
            }
        )
        for index, step in enumerate(steps)
    )


def _change_spacing(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
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


def _change_words(steps: tuple[Step, ...], rng: Random) -> tuple[Step, ...]:
    def reword(step: Step) -> Step:
        if step.source != "agent":
            return step
        text = rng.choice(texts.REMARKS[1:]) if step.tool_calls else rng.choice(("Done.", "All done.", "That is it."))
        return step.model_copy(update={"content": text})

    return tuple(reword(step) for step in steps)
