"""Plant loops and repeated calls, and controls in which a call is repeated for a reason.

``trajectories.py`` calls the ``add_*`` functions. Each adds one case to the files of a workplace.
"""

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play_expert
from looper.benchmarks.synthesis.planted_defects.episode_script import (
    HISTORY,
    NOTE,
    STATUS,
    EpisodeScript,
    apply_flaw,
    format_arguments,
)
from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.gym.simulator import WorkplaceSimulator


def add_loop(files: EpisodeFiles, number: int) -> None:
    """Add a loop to ``files``. ``number`` selects the calls of the cycle."""
    case = number % 6
    script = EpisodeScript(files.new_task(blocked=case == 4))
    cycle = [
        [script.read_call],
        [script.optional_call(HISTORY)],
        [script.write_call],
        [script.read_call, script.optional_call(HISTORY)],
        [script.read_call, script.write_call],
        [script.read_call, script.optional_call(HISTORY), script.optional_call(STATUS)],
    ][case]
    if script.read_call not in cycle:
        script.call_tool(script.read_call)
    recovers = files.rng.random() < 0.7
    rounds = files.rng.randint(3, 5 if len(cycle) == 1 else 4) + (0 if recovers else 2)
    varies = files.rng.random() < 0.5  # The formatting of arguments and the remarks change from round to round.
    steps = []
    for turn in range(rounds):
        for call in cycle:
            formatted = (call, format_arguments(call, turn if varies else 0))
            made, raw_arguments = apply_flaw(call, Flaw.MISSING) if case == 2 else formatted
            remark = files.rng.choice(texts.REMARKS) if varies else ""
            steps.append(script.call_tool(made, raw_arguments=raw_arguments, remark=remark))
    script.mark_defect(DefectKind.LOOP, steps[0], steps[-1])
    if recovers:
        script.finish_task()
    files.add_episode(script.finish("done" if recovers else None))


def add_repeated_call(files: EpisodeFiles, number: int) -> None:
    """Add a call that is made exactly twice to ``files``. ``number`` selects the call."""
    script = EpisodeScript(files.new_task())
    calls = [script.read_call, script.optional_call(HISTORY), script.write_call, script.optional_call(STATUS)]
    call = calls[number % 4]
    if call is not script.read_call:
        script.call_tool(script.read_call)
    first = script.call_tool(call)
    raw_arguments = format_arguments(call, number)
    last = script.call_tool(call, raw_arguments=raw_arguments, remark=files.rng.choice(texts.REMARKS))
    script.mark_defect(DefectKind.REPEATED_CALL, first, last)
    script.finish_task()
    files.add_episode(script.finish())


def add_read_after_write(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: a read is repeated after a write. ``number`` selects whether its answer changed."""
    script = EpisodeScript(files.new_task(blocked=number % 2 == 1))
    script.call_tool(script.read_call)
    script.call_tool(script.optional_call(STATUS), "open")
    script.finish_task()
    script.call_tool(script.optional_call(STATUS), "settled" if number % 3 else "open")
    files.add_episode(script.finish())


def add_polling(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: one call until its answer is the expected one. ``number`` selects the answers."""
    script = EpisodeScript(files.new_task())
    script.call_tool(script.read_call)
    for answer in texts.POLLS[number % len(texts.POLLS)]:
        script.call_tool(script.optional_call(STATUS), answer)
    script.finish_task()
    files.add_episode(script.finish())


def add_changed_arguments(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: the same tools in turn, for another record or with another argument each time.

    ``number`` selects the sort of change.
    """
    task = files.new_task()
    if number % 3 == 0:
        script = play_expert(task)
        for text in ("seen", "settled", "closed")[: 2 + number % 2]:
            script.call_tool(script.optional_call(NOTE, text))
    elif number % 3 == 1:  # The tool accepts a wrong call, and the agent corrects it.
        script = EpisodeScript(task)
        script.call_tool(script.read_call)
        script.call_tool(apply_flaw(script.write_call, Flaw.WRONG)[0])
        script.finish_task()
    else:
        other = files.new_task()
        other_simulation = WorkplaceSimulator(other)
        script = EpisodeScript(task, f"{task.request} {other.request}")
        script.finish_task()
        while (call := other_simulation.expected_call()) is not None:
            script.call_tool(call, other_simulation.call_tool(call.tool, call.arguments))
    files.add_episode(script.finish())
