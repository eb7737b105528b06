"""Loops and repeated calls, and calls that come again for a reason.

``loop(shelf, number)`` files one case: the ``number`` goes through the sorts that there are.
"""

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play
from looper.benchmarks.synthesis.planted_defects.script import HISTORY, NOTE, STATUS, Script, flawed, spelled
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind
from looper.gym.simulator import WorkplaceSimulator


def loop(shelf: EpisodeFiles, number: int) -> None:
    sort = number % 6
    script = Script(shelf.task(blocked=sort == 4))
    cycle = [
        [script.read],
        [script.extra(HISTORY)],
        [script.write],
        [script.read, script.extra(HISTORY)],
        [script.read, script.write],
        [script.read, script.extra(HISTORY), script.extra(STATUS)],
    ][sort]
    if script.read not in cycle:
        script.make(script.read)
    escapes = shelf.rng.random() < 0.7
    rounds = shelf.rng.randint(3, 5 if len(cycle) == 1 else 4) + (0 if escapes else 2)
    free = shelf.rng.random() < 0.5  # spells and remarks as it comes
    places = []
    for turn in range(rounds):
        for call in cycle:
            spelling = (call, spelled(call, turn if free else 0))
            made, written = flawed(call, Flaw.MISSING) if sort == 2 else spelling
            remark = shelf.rng.choice(texts.REMARKS) if free else ""
            places.append(script.make(made, written=written, remark=remark))
    script.mark(DefectKind.LOOP, places[0], places[-1])
    if escapes:
        script.work()
    shelf.put(script.end("done" if escapes else None))


def repeated_call(shelf: EpisodeFiles, number: int) -> None:
    script = Script(shelf.task())
    call = [script.read, script.extra(HISTORY), script.write, script.extra(STATUS)][number % 4]
    if call is not script.read:
        script.make(script.read)
    first = script.make(call)
    last = script.make(call, written=spelled(call, number), remark=shelf.rng.choice(texts.REMARKS))
    script.mark(DefectKind.REPEATED_CALL, first, last)
    script.work()
    shelf.put(script.end())


def read_again(shelf: EpisodeFiles, number: int) -> None:
    """A control: what was read is read once more after a write, and has changed or not."""
    script = Script(shelf.task(blocked=number % 2 == 1))
    script.make(script.read)
    script.make(script.extra(STATUS), "open")
    script.work()
    script.make(script.extra(STATUS), "settled" if number % 3 else "open")
    shelf.put(script.end())


def polling(shelf: EpisodeFiles, number: int) -> None:
    """A control: the same call until its answer is the awaited one."""
    script = Script(shelf.task())
    script.make(script.read)
    for answer in texts.POLLS[number % len(texts.POLLS)]:
        script.make(script.extra(STATUS), answer)
    script.work()
    shelf.put(script.end())


def other_arguments(shelf: EpisodeFiles, number: int) -> None:
    """A control: the same tools in turn, for another record or with another argument each time."""
    task = shelf.task()
    if number % 3 == 0:
        script = play(task)
        for text in ("seen", "settled", "closed")[: 2 + number % 2]:
            script.make(script.extra(NOTE, text))
    elif number % 3 == 1:  # accepted, seen to be wrong, and done again
        script = Script(task)
        script.make(script.read)
        script.make(flawed(script.write, Flaw.WRONG)[0])
        script.work()
    else:
        other = shelf.task()
        second = WorkplaceSimulator(other)
        script = Script(task, f"{task.request} {other.request}")
        script.work()
        while (call := second.expected()) is not None:
            script.make(call, second.call(call.tool, call.arguments))
    shelf.put(script.end())
