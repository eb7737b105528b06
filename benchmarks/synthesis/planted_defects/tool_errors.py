"""Plant errors of every class with an agent's reaction to them, and controls that only sound like errors.

``trajectories.py`` calls the ``add_*`` functions. Each adds one case to the files of a workplace.
"""

import re

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play_expert
from looper.benchmarks.synthesis.planted_defects.episode_script import HISTORY, STATUS, EpisodeScript, apply_flaw
from looper.benchmarks.synthesis.planted_defects.ground_truth import DefectKind
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.gym.workplace import WorkplaceCall


def add_transient_error(files: EpisodeFiles, number: int) -> None:
    """Add an error that passes to ``files``. ``number`` selects the call, the text and the agent's reaction."""
    script = EpisodeScript(files.new_task())
    call = [script.read_call, script.write_call, script.optional_call(HISTORY)][number % 3]
    if call is not script.read_call:
        script.call_tool(script.read_call)
    answers = files.rng.sample(texts.TRANSIENT, 2)
    answers[0] = texts.TRANSIENT[number % len(texts.TRANSIENT)]
    for answer in dict.fromkeys(answers if number % 5 == 4 else answers[:1]):
        script.call_tool(call, answer, DefectKind.TRANSIENT)
    if call is script.write_call and number % 2:  # The agent calls another tool before it tries again.
        script.call_tool(script.optional_call(STATUS))
    if call is script.read_call or call is script.write_call:
        script.finish_task(("Trying again.",) if number % 4 == 0 else ("",))
    else:
        script.call_tool(call)
        script.finish_task()
    files.add_episode(script.finish())


def add_causal_error_code(files: EpisodeFiles, number: int) -> None:
    """Add a wrong call to ``files`` that the workplace answers with an error code. ``number`` selects the code."""
    case = number % 7
    script = EpisodeScript(files.new_task(blocked=case == 6))
    if case == 0:  # E_UNKNOWN
        record, value = next(iter(script.read_call.arguments.items()))
        plain = re.sub(r"[^A-Za-z0-9 ]", "", value)
        script.call_tool(WorkplaceCall(script.read_call.tool, {**script.read_call.arguments, record: plain}))
    elif case == 1 and not script.task.workplace.procedure[0].reads:
        script.call_tool(script.write_call)  # E_ORDER
    else:
        script.call_tool(script.read_call)
        if case == 6:
            script.call_tool(script.write_call)
            script.call_tool(apply_flaw(script.remedy_call(), Flaw.WRONG)[0])  # E_REFUSED
        elif case == 5:
            script.call_tool(script.remedy_call())  # E_STATE
        else:
            flaw = [Flaw.MISNAMED, Flaw.MISNAMED, Flaw.MISSING, Flaw.EXTRA, Flaw.MALFORMED][case]
            call, raw_arguments = apply_flaw(script.write_call, flaw)
            if flaw is Flaw.MALFORMED:
                script.call_tool(call, "E_ARGS", DefectKind.CAUSAL, raw_arguments=raw_arguments)
            else:
                script.call_tool(call, raw_arguments=raw_arguments)  # E_TOOL, E_ARGS
    script.finish_task()
    files.add_episode(script.finish())


def add_causal_error_text(files: EpisodeFiles, number: int) -> None:
    """Add a wrong call to ``files`` that is answered with a text. ``number`` selects the flaw and the text."""
    flaw, template = texts.CAUSAL[number % len(texts.CAUSAL)]
    script = EpisodeScript(files.new_task())
    script.call_tool(script.read_call)
    call, raw_arguments = apply_flaw(script.write_call, flaw)
    parameter, value = list(script.write_call.arguments)[-1], list(call.arguments.values())[-1]
    answer = template.format(tool=call.tool, parameter=parameter, value=value)
    script.call_tool(call, answer, DefectKind.CAUSAL, raw_arguments=raw_arguments)
    script.finish_task(("I correct that.",) if number % 3 == 0 else ("",))
    files.add_episode(script.finish())


def add_informative_error(files: EpisodeFiles, number: int) -> None:
    """Add an obstacle to a correct call to ``files``. ``number`` selects the obstacle and how the episode ends."""
    case = number % 5
    script = EpisodeScript(files.new_task(blocked=case == 0))
    record = next(iter(script.write_call.arguments.values()))
    obstacle = texts.INFORMATIVE[number % len(texts.INFORMATIVE)]
    if case == 1:  # The record does not exist, so a correct call fails too.
        script.call_tool(script.read_call, "E_UNKNOWN", DefectKind.INFORMATIVE)
        files.add_episode(script.finish("There is no such record.", success=False))
        return
    script.call_tool(script.read_call)
    if case == 2:
        missing = texts.NOT_FOUND[number % len(texts.NOT_FOUND)].format(record=record)
        script.call_tool(script.optional_call(HISTORY), missing, DefectKind.INFORMATIVE)
    elif case > 2:
        script.call_tool(script.write_call, obstacle, DefectKind.INFORMATIVE)
        if case == 4:
            files.add_episode(script.finish("That cannot be done as it stands.", success=False))
            return
        script.add_agent_message("That cannot be done as it stands.")
        script.add_user_message("I have cleared it, please go on.")
    script.finish_task()
    files.add_episode(script.finish())


def add_environment_error(files: EpisodeFiles, number: int) -> None:
    """Add a bug of a tool to ``files``. ``number`` selects the call, the text and whether the episode fails."""
    script = EpisodeScript(files.new_task())
    fails = number % 2 == 0
    script.call_tool(script.read_call)
    call = script.write_call if fails else script.optional_call(HISTORY if number % 4 == 1 else STATUS)
    bug = texts.ENVIRONMENT[number % len(texts.ENVIRONMENT)].format(tool=call.tool, parameter=list(call.arguments)[-1])
    script.call_tool(call, bug, DefectKind.ENVIRONMENT)
    if fails:
        if number % 4 == 0:
            script.call_tool(script.optional_call(STATUS))
        files.add_episode(script.finish("The tool is broken, I cannot finish this.", success=False))
        return
    script.call_tool(script.optional_call(STATUS if call.tool == HISTORY else HISTORY))
    script.finish_task()
    files.add_episode(script.finish())


def add_harmless_error_words(files: EpisodeFiles, number: int) -> None:
    """Add a control to ``files``: an answer with an error's words that is no error. ``number`` selects the answer."""
    answer = texts.HARMLESS_ERRORS[number % len(texts.HARMLESS_ERRORS)]
    tool = HISTORY if number % 2 else STATUS
    files.add_episode(play_expert(files.new_task(), (tool,), answers={tool: answer}).finish())
