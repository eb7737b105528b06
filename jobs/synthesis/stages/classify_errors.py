"""Which of a tool's answers are errors, and whose fault they are.

First by its words: being down for a moment, and a tool's own code failing, are told by them alone. Then by what was
known: what the agent made up, or could have seen in an answer before, is its own fault; what only the user said, or
nobody, it had to find out. Then by what it did next: a call that is made again unchanged and works was right, one that
had to be changed was wrong.

Tools that run what the agent wrote, such as a shell, are told apart: what fails there is mostly what was looked for.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from looper.jobs.synthesis.actions import Action, actions, parsed, signature
from looper.jobs.synthesis.draft import Draft, Error, StageVerdict
from looper.jobs.synthesis.stages.observed_facts import PARTS, ObservedFacts, bare, looked_up, texts, was_avoidable
from looper.platform.domain.trajectory import ToolCall

STAGE = "errors"
SHORT = 200
HEAD = 600
"""Characters of an answer that is short, and at the beginning of a long one in which its being an error shows."""


def _any(*patterns: str, flags: re.RegexFlag = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile("|".join(patterns), flags)


_TRANSIENT = _any(
    r"e_timeout|e_busy|e_unavailable|timed? ?out|rate.?limit|too many requests|\b(429|502|503|504)\b|bad gateway",
    r"service unavailable|temporar(y|ily)|connection ?(was )?(reset|refused|aborted|lost|closed|error)|econn\w+",
    r"connect error|server busy|too many connections|socket hang up|lock wait",
    r"try again (later|in )|overloaded|deadline exceeded|throttl|network is unreachable|retry after",
)
_BROKEN = _any(
    r"object has no attribute|not supported between instances|indices must be integers|'nonetype' object",
    r"unsupported operand|object is not (subscriptable|iterable|callable)|list index out of range|division by zero",
    r"\b(attribute|key|index|unboundlocal|zerodivision|assertion|recursion)error\b|internal (server )?error|\b500\b",
    r"nil pointer|panic: |undefinedcolumn|nameerror|modulenotfounderror|nullpointer|undefined is not",
    r"cannot read propert|has no len\(\)|not json serializable|can only concatenate",
    r"^error: ['\"][^'\"\n]*['\"]$",  # of a Python KeyError, only the key is printed
)
_WRONG = _any(
    r"unexpected keyword argument|required positional argument|validation errors? for|takes \d+ positional",
    r"e_(args?|tool|refused|order|state|syntax|invalid|value|type)\b|\b(400|422)\b|bad request",
    r"\btool .{0,60}not found|no tool named",
    r"unknown (tool|function|command|argument|parameter)|\binvalid\b|malformed|syntax error",
    r"\bmust (be|match|cover|have|not|include)|\bshould (be|match|have)|\brequires?\b|is required|\bmissing\b",
    r"does not add up|do(es)? not match|not permitted|not a valid|wrong|out of order|out of range|exceeds",
)
_REFUSED = _any(
    r"cannot be|can't be|can only be|no se puede|not available|unavailable|sin stock|out of stock|not enough|already",
    r"\bya (existe|fue)|insufficient|expired|denied|forbidden|not allowed|no longer|none left|fully booked|sold out",
    r"declined|closed",
)
_NOT_FOUND = _any(
    r"not found|no such|does ?n[o']t exist|no existe|no encontrad|no se encontr|e_unknown|\bunknown\b|could not find"
)
_ERROR_AT_HEAD = _any(
    r"^\W*(an? )?(\w*error\b|err\b|exception|fatal|failed|failure|e_\w+\b|traceback|(http )?[45]\d\d\b|invalid ",
    r"no replacement was performed|unknown |timed? ?out|rate limit|too many req|service unavailable|connection ",
    r"internal server error|bad gateway|permission denied|access denied|syntax error|cannot |could not |unable to ",
    r"refused|your proposed edit has introduced)",
)
_ERROR_IN_SHORT = _any(
    r"\btemporarily unavailable|try again (later|in )|connect error|timeout exceeded|server busy",
    r"too many (connections|req)",
    r"\b\w*(error|exception)(:|\n|$)|^(\w+\.)+\w+: |^panic: |nothing (was )?found|\bno [\w ]{0,30}(was |were )?found\b",
    r"(does|do|is|are) not (allow|allowed|permit|permitted|available|found|exist)|not in stock|socket hang up",
)
"""In an answer of no more than a line or two, anywhere."""
_COUNTS = re.compile(
    r"^[\w -]+: (0|none|empty|no|false|ok|\[\])\W*$|\bno (errors?|problems?|issues?|failures?) ", re.IGNORECASE
)
"""An answer that names errors, and says that there are none."""
_SHELL_ERROR = re.compile(
    r"^(/\w+)*/?[^\W\d]\w*: (line )?(\d+: )?.*([Nn]ot found|[Nn]o such file|[Pp]ermission denied|can't cd|cannot access"
    r"|[Ss]yntax error)"
    r"|^Traceback \(most recent call last\)|^g?make(\[\d+\])?: \*\*\*|^(E|Err:\d+)[: ]|^CMake Error|^fatal: "
    r"|^error(\[\w+\])?: |^\w*Error: |^Error (with|in|at|on|while|during|when) [^\n:]{1,80}: |✗"
    r"|^FAIL(ED)?\b|\b[1-9]\d* failed\b",
    re.MULTILINE,
)
_SHELL_WRONG = _any(
    r"^(/\w+)*/?(ba)?sh: .*(no such file|not found)|command not found|can't cd|syntax ?error|nameerror",
    r"indentationerror",
    r"unrecognized (option|argument)|invalid option|^usage:|no replacement was performed|proposed edit has introduced",
    r"parameter .{0,40}required|^error:\s+invalid|no rule to make target|(old|new)_str",
    flags=re.IGNORECASE | re.MULTILINE,
)
_SHELL_LACKS = _any(
    r"modulenotfounderror|importerror|unable to locate package|failed to fetch|could not resolve|temporary failure",
    r"cannot execute binary|no space left|internal error",
)
_SHELLS = _any(r"bash|sh|shell|terminal|execute|exec|run|python|edit|str_replace_editor")
_WRITTEN_BY_THE_AGENT = {"command", "cmd", "script", "file_text", "old_str", "new_str"}
"""Arguments in which an agent hands over what it wrote itself, to be run or put in place."""
_ASSIGNED = re.compile(r"^(OBSERVATION:\s*|#? ?\w+ = \"?)")
"""What some agents' tools print before the answer itself."""


def classify_errors(draft: Draft) -> Draft:
    """Say of each tool's answer whether it is an error, and of which kind."""
    steps, verdicts = list(draft.steps), []
    done = [action for action in actions(steps) if len(action.answers) == len(action.calls)]
    said = {
        answer: _message(call, steps[answer].step.content)
        for action in done
        for call, answer in zip(action.calls, action.answers, strict=True)
    }
    wrong = any(said.values())
    heard, later = (ObservedFacts(steps), _Later(done, said)) if wrong else (None, None)
    for number, action in enumerate(done):
        for call, answer in zip(action.calls, action.answers, strict=True):
            message = said[answer]
            if message is None or heard is None or later is None:
                continue
            if _runs_what_was_written(call):
                found = _of_a_shell(message)
            else:
                too_late = number + 1 < len(done) and looked_up(call, message, done[number + 1], said)
                found = _of_a_tool(call, message, heard, later, action.at, number, too_late)
            steps[answer] = replace(steps[answer], error=found)
            verdicts.append(StageVerdict(STAGE, found.value, _line(message), steps[answer].place))
    return draft.with_steps(tuple(steps), *verdicts)


def _of_a_shell(message: str) -> Error:
    if _SHELL_LACKS.search(message):
        return Error.ENVIRONMENT
    if _SHELL_WRONG.search(message):
        return Error.CAUSAL
    return Error.TRANSIENT if _TRANSIENT.search(message) else Error.INFORMATIVE


def _of_a_tool(
    call: ToolCall, message: str, heard: ObservedFacts, later: "_Later", at: int, number: int, looked_up_next: bool
) -> Error:
    words = _without_values(message, call)
    if _TRANSIENT.search(words):
        return Error.TRANSIENT
    if _BROKEN.search(words):
        return Error.CAUSAL if later.got_past(call, message, number) else Error.ENVIRONMENT
    if _WRONG.search(words):
        return Error.CAUSAL
    next_time = later.worked(call, number)
    if next_time is not None and signature(next_time.call) == signature(call):
        return Error.INFORMATIVE  # as it was, it was right
    if next_time is not None and _rewritten(call, next_time.call) and not _both_named(call, next_time, heard, at):
        return Error.CAUSAL
    if _NOT_FOUND.search(words) or _REFUSED.search(words):
        return Error.CAUSAL if looked_up_next or was_avoidable(call, message, heard, at) else Error.INFORMATIVE
    return Error.CAUSAL if next_time else Error.INFORMATIVE


def _message(call: ToolCall, answer: str) -> str | None:
    """What says that ``answer`` is an error, or None if nothing does."""
    text = _ASSIGNED.sub("", answer.strip())
    fields = _fields(text)
    if fields is not None:
        said = fields.get("error") or fields.get("errors")
        if said:
            return str(said)[:HEAD]
        failed = fields.get("status") in ("error", "failed") or fields.get("isError") is True
        return text[:HEAD] if failed else None
    if _COUNTS.search(text[:SHORT]):
        return None
    if _ERROR_AT_HEAD.match(text) or (len(text) <= SHORT and _ERROR_IN_SHORT.search(text)):
        return text[:HEAD]
    found = _SHELL_ERROR.search(text) if _runs_what_was_written(call) else None
    return text[found.start() :][:HEAD] if found else None


def _fields(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _runs_what_was_written(call: ToolCall) -> bool:
    arguments = parsed(call)
    if arguments is None:
        return bool(_SHELLS.match(call.name))
    return bool(_WRITTEN_BY_THE_AGENT & arguments.keys()) or "\n" in str(arguments.get("code", ""))


def _without_values(message: str, call: ToolCall) -> str:
    """``message`` without what it quotes of the call: ``U-INVALID not found`` says nothing of being invalid."""
    for value in sorted(texts(parsed(call) or {}), key=len, reverse=True):
        if len(value) > 2:
            message = message.replace(value, "…")
    return message


class _Later:
    """Which calls of each tool came after an action, and which of them worked."""

    def __init__(self, done: Sequence[Action], said: Mapping[int, str | None]) -> None:
        self._said = said
        self._made: defaultdict[str, list[_Made]] = defaultdict(list)
        self._worked: defaultdict[str, list[_Made]] = defaultdict(list)
        for number, action in enumerate(done):
            for call, answer in zip(action.calls, action.answers, strict=True):
                made = _Made(number, action.at, call, answer)
                self._made[call.name].append(made)
                if said[answer] is None:
                    self._worked[call.name].append(made)

    def got_past(self, call: ToolCall, message: str, number: int) -> bool:
        """Whether the next call of the tool, with other arguments, was spared the error."""
        again = _next(self._made[call.name], number)
        return again is not None and signature(again.call) != signature(call) and self._said[again.answer] != message

    def worked(self, call: ToolCall, number: int) -> "_Made | None":
        """The next call of the tool that was answered without an error."""
        return _next(self._worked[call.name], number)


class _Made(NamedTuple):
    number: int
    at: int
    call: ToolCall
    answer: int


def _next(made: Sequence[_Made], number: int) -> _Made | None:
    at = bisect_right(made, number, key=lambda each: each.number)
    return made[at] if at < len(made) else None


def _rewritten(call: ToolCall, again: ToolCall) -> bool:
    """Whether both name the same, written differently: ``1234`` and ``HD-1234``, ``Ann Bell`` and ``Bell, Ann``."""
    values = [texts(parsed(each) or {}) for each in (call, again)]
    one, other = (Counter(PARTS.findall(" ".join(some).lower())) for some in values)
    some, others = (sorted(part for value in every for part in bare(value)) for every in values)
    return bool(some) and some == others and (one <= other or other <= one)


def _both_named(call: ToolCall, again: _Made, heard: ObservedFacts, at: int) -> bool:
    """Whether the agent had heard of either, as it is spelled: then they may well be two things."""
    one, other = (texts(parsed(each) or {}) for each in (call, again.call))
    return any(heard.as_spelled(value, at) for value in one if value not in other) and any(
        heard.as_spelled(value, again.at) for value in other if value not in one
    )


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 160 else f"{line[:159]}…"
