"""Errors of every class with what an agent does about them, and answers that only sound like errors."""

import re

from looper.benchmarks.synthesis.planted_defects import texts
from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play
from looper.benchmarks.synthesis.planted_defects.script import HISTORY, STATUS, Script, flawed
from looper.benchmarks.synthesis.planted_defects.texts import Flaw
from looper.benchmarks.synthesis.planted_defects.truth import DefectKind
from looper.gym.workplace import ExpectedCall


def transient(shelf: EpisodeFiles, number: int) -> None:
    script = Script(shelf.task())
    call = [script.read, script.write, script.extra(HISTORY)][number % 3]
    if call is not script.read:
        script.make(script.read)
    answers = shelf.rng.sample(texts.TRANSIENT, 2)
    answers[0] = texts.TRANSIENT[number % len(texts.TRANSIENT)]
    for answer in dict.fromkeys(answers if number % 5 == 4 else answers[:1]):
        script.make(call, answer, DefectKind.TRANSIENT)
    if call is script.write and number % 2:  # something else first
        script.make(script.extra(STATUS))
    if call is script.read or call is script.write:
        script.work(("Trying again.",) if number % 4 == 0 else ("",))
    else:
        script.make(call)
        script.work()
    shelf.put(script.end())


def causal_code(shelf: EpisodeFiles, number: int) -> None:
    """The work place's own codes, one after the other."""
    sort = number % 7
    script = Script(shelf.task(blocked=sort == 6))
    if sort == 0:
        record, value = next(iter(script.read.arguments.items()))
        plain = re.sub(r"[^A-Za-z0-9 ]", "", value)
        script.make(ExpectedCall(script.read.tool, {**script.read.arguments, record: plain}))  # E_UNKNOWN
    elif sort == 1 and not script.task.workplace.procedure[0].reads:
        script.make(script.write)  # E_ORDER
    else:
        script.make(script.read)
        if sort == 6:
            script.make(script.write)
            script.make(flawed(script.remedy(), Flaw.WRONG)[0])  # E_REFUSED
        elif sort == 5:
            script.make(script.remedy())  # E_STATE
        else:
            flaw = [Flaw.MISNAMED, Flaw.MISNAMED, Flaw.MISSING, Flaw.EXTRA, Flaw.MALFORMED][sort]
            call, written = flawed(script.write, flaw)
            if flaw is Flaw.MALFORMED:
                script.make(call, "E_ARGS", DefectKind.CAUSAL, written=written)
            else:
                script.make(call, written=written)  # E_TOOL, E_ARGS
    script.work()
    shelf.put(script.end())


def causal_words(shelf: EpisodeFiles, number: int) -> None:
    flaw, template = texts.CAUSAL[number % len(texts.CAUSAL)]
    script = Script(shelf.task())
    script.make(script.read)
    call, written = flawed(script.write, flaw)
    parameter, value = list(script.write.arguments)[-1], list(call.arguments.values())[-1]
    answer = template.format(tool=call.tool, parameter=parameter, value=value)
    script.make(call, answer, DefectKind.CAUSAL, written=written)
    script.work(("I correct that.",) if number % 3 == 0 else ("",))
    shelf.put(script.end())


def informative(shelf: EpisodeFiles, number: int) -> None:
    sort = number % 5
    script = Script(shelf.task(blocked=sort == 0))
    record = next(iter(script.write.arguments.values()))
    obstacle = texts.INFORMATIVE[number % len(texts.INFORMATIVE)]
    if sort == 1:  # there is no such record, however it is asked for
        script.make(script.read, "E_UNKNOWN", DefectKind.INFORMATIVE)
        shelf.put(script.end("There is no such record.", success=False))
        return
    script.make(script.read)
    if sort == 2:
        missing = texts.NOT_FOUND[number % len(texts.NOT_FOUND)].format(record=record)
        script.make(script.extra(HISTORY), missing, DefectKind.INFORMATIVE)
    elif sort > 2:
        script.make(script.write, obstacle, DefectKind.INFORMATIVE)
        if sort == 4:
            shelf.put(script.end("That cannot be done as it stands.", success=False))
            return
        script.say("That cannot be done as it stands.")
        script.hear("I have cleared it, please go on.")
    script.work()
    shelf.put(script.end())


def environment(shelf: EpisodeFiles, number: int) -> None:
    script = Script(shelf.task())
    fails = number % 2 == 0
    script.make(script.read)
    call = script.write if fails else script.extra(HISTORY if number % 4 == 1 else STATUS)
    bug = texts.ENVIRONMENT[number % len(texts.ENVIRONMENT)].format(tool=call.tool, parameter=list(call.arguments)[-1])
    script.make(call, bug, DefectKind.ENVIRONMENT)
    if fails:
        if number % 4 == 0:
            script.make(script.extra(STATUS))
        shelf.put(script.end("The tool is broken, I cannot finish this.", success=False))
        return
    script.make(script.extra(STATUS if call.tool == HISTORY else HISTORY))
    script.work()
    shelf.put(script.end())


def error_word(shelf: EpisodeFiles, number: int) -> None:
    """A control: an answer that holds an error's words and is none."""
    answer = texts.HARMLESS_ERRORS[number % len(texts.HARMLESS_ERRORS)]
    tool = HISTORY if number % 2 else STATUS
    shelf.put(play(shelf.task(), (tool,), answers={tool: answer}).end())
