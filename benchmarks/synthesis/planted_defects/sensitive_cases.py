"""Plant secrets and personal data in messages, tool answers and calls, and controls that only look like them.

``trajectories.py`` calls these functions. The texts come from ``sensitive_text.py``.
"""

from collections.abc import Callable, Sequence

from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play_expert
from looper.benchmarks.synthesis.planted_defects.episode_script import ANSWERS, HISTORY, NOTE, EpisodeScript
from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind
from looper.benchmarks.synthesis.planted_defects.sensitive_text import draw_text
from looper.gym.workplace import WorkplaceTask


def sensitive_case(kind: DefectKind) -> Callable[[EpisodeFiles, int], None]:
    """Return a function that adds one secret, or one piece of personal data.

    Args:
        kind: ``SECRET`` or ``PERSONAL``.

    Returns:
        A function of the files and of a number, which selects the sort of text. Every second text stands beside a
        harmless one.
    """

    def add_case(files: EpisodeFiles, number: int) -> None:
        sentence, parts = draw_text(kind, number, files.rng)
        harmless_sentence, harmless_parts = draw_text(kind, number, files.rng, harmless=True)
        text = f"{sentence}\n{harmless_sentence}" if number % 2 else sentence
        locations = files.rng.choice(((NOTE,), (HISTORY,), ("user",), ("user", NOTE)))
        script = _insert_text(files.new_task(), text, locations)
        script.mark_text(kind, parts)
        if number % 2:
            script.mark_text(kind, harmless_parts, harmless=True)
        files.add_episode(script.finish())

    return add_case


def harmless_case(kind: DefectKind) -> Callable[[EpisodeFiles, int], None]:
    """Return a function that adds one control: a text that only looks like a secret or like personal data.

    Args:
        kind: ``SECRET`` or ``PERSONAL``.

    Returns:
        A function of the files and of a number, which selects the sort of text and its location.
    """

    def add_case(files: EpisodeFiles, number: int) -> None:
        sentence, parts = draw_text(kind, number, files.rng, harmless=True)
        script = _insert_text(files.new_task(), sentence, (("user",), (HISTORY,), (NOTE,))[number % 3])
        script.mark_text(kind, parts, harmless=True)
        files.add_episode(script.finish())

    return add_case


def add_harmless_workplace_words(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: the workplace's own words that look sensitive. ``number`` is not used.

    Examples are the user ``Mary@Long`` and the token ``T5``.
    """
    script = play_expert(files.new_task(blocked=True))
    record = next(iter(script.write_call.arguments.values()))
    remedy = list(script.remedy_call().arguments.values())[-1]
    script.mark_text(DefectKind.PERSONAL, (f'"{record}"',), harmless=True)
    script.mark_text(DefectKind.SECRET, (f'"{remedy}"',), harmless=True)
    if "password" in script.task.request:
        script.mark_text(DefectKind.SECRET, (script.task.request.partition("the ")[2],), harmless=True)
    files.add_episode(script.finish())


def _insert_text(task: WorkplaceTask, text: str, locations: Sequence[str]) -> EpisodeScript:
    """Play an episode with ``text`` in the user's message, in the answer of the history tool, or in a note."""
    request = f"{task.request} {text}" if "user" in locations else None
    optional_tools = tuple(tool for tool in locations if tool in ANSWERS)
    return play_expert(task, optional_tools, request=request, answers={HISTORY: text}, note=text)
