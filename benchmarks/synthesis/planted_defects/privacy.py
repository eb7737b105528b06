"""Secrets and personal data that the user says, a tool answers or the agent writes, and what only looks like them."""

from collections.abc import Callable, Sequence

from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play
from looper.benchmarks.synthesis.planted_defects.script import ANSWERS, HISTORY, NOTE, Script
from looper.benchmarks.synthesis.planted_defects.sensitive import draw_text
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind
from looper.gym.workplace import WorkplaceTask


def sensitive(kind: DefectKind) -> Callable[[EpisodeFiles, int], None]:
    def write(shelf: EpisodeFiles, number: int) -> None:
        sentence, parts = draw_text(kind, number, shelf.rng)
        beside, innocents = draw_text(kind, number, shelf.rng, harmless=True)
        told = f"{sentence}\n{beside}" if number % 2 else sentence
        where = shelf.rng.choice(((NOTE,), (HISTORY,), ("user",), ("user", NOTE)))
        script = _told(shelf.task(), told, where)
        script.plant(kind, parts)
        if number % 2:
            script.plant(kind, innocents, harmless=True)
        shelf.put(script.end())

    return write


def innocent(kind: DefectKind) -> Callable[[EpisodeFiles, int], None]:
    def write(shelf: EpisodeFiles, number: int) -> None:
        """A control: nothing here is secret or personal."""
        sentence, parts = draw_text(kind, number, shelf.rng, harmless=True)
        script = _told(shelf.task(), sentence, (("user",), (HISTORY,), (NOTE,))[number % 3])
        script.plant(kind, parts, harmless=True)
        shelf.put(script.end())

    return write


def innocent_by_nature(shelf: EpisodeFiles, number: int) -> None:
    """A control: the house's own words that look like more, such as the user ``Mary@Long`` and the token ``T5``."""
    script = play(shelf.task(blocked=True))
    record, remedy = next(iter(script.write.arguments.values())), list(script.remedy().arguments.values())[-1]
    script.plant(DefectKind.PERSONAL, (f'"{record}"',), harmless=True)
    script.plant(DefectKind.SECRET, (f'"{remedy}"',), harmless=True)
    if "password" in script.task.request:
        script.plant(DefectKind.SECRET, (script.task.request.partition("the ")[2],), harmless=True)
    shelf.put(script.end())


def _told(task: WorkplaceTask, sentence: str, where: Sequence[str]) -> Script:
    """An episode in which ``sentence`` is said by the user, observed in the history or written into a note."""
    request = f"{task.request} {sentence}" if "user" in where else None
    way = tuple(tool for tool in where if tool in ANSWERS)
    return play(task, way, request=request, answers={HISTORY: sentence}, note=sentence)
