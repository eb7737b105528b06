"""The errors stage: which tool results are errors, and whether the agent caused them.

The wording decides first: it is enough for temporary failures and for bugs of the tool. Then comes what the agent could
know: an argument that it made up, or that an earlier tool result contradicts, is its own error; a refusal that it could
only learn by the call is information. Last comes what the agent did next: a call that works when it is repeated
unchanged was right, one that had to be changed was wrong.

Tools that run code of the agent, such as a shell, have their own rules: their failures are mostly the information that
the agent looked for. ``pipeline/stages.py`` calls this stage; ``grade``, ``prune`` and ``credit`` use the result.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from looper.jobs.synthesis.actions import Action, call_signature, extract_actions, parse_arguments
from looper.jobs.synthesis.draft import Draft, ErrorKind, StageVerdict
from looper.jobs.synthesis.stages.error_messages import compile_alternatives, find_error_message, runs_agent_code
from looper.jobs.synthesis.stages.observed_facts import (
    NAME_PARTS,
    ObservedFacts,
    identifying_parts,
    string_values,
    was_avoidable,
    was_looked_up_next,
)
from looper.platform.domain.trajectory import ToolCall

STAGE = "errors"

MAX_DETAIL_CHARS = 160
"""Maximum length of an error message in a verdict."""

_TRANSIENT = compile_alternatives(
    r"e_timeout|e_busy|e_unavailable|timed? ?out|rate.?limit|too many requests|\b(429|502|503|504)\b|bad gateway",
    r"service unavailable|temporar(y|ily)|connection ?(was )?(reset|refused|aborted|lost|closed|error)|econn\w+",
    r"connect error|server busy|too many connections|socket hang up|lock wait",
    r"try again (later|in )|overloaded|deadline exceeded|throttl|network is unreachable|retry after",
)
"""Temporary failures."""

_TOOL_BUG = compile_alternatives(
    r"object has no attribute|not supported between instances|indices must be integers|'nonetype' object",
    r"unsupported operand|object is not (subscriptable|iterable|callable)|list index out of range|division by zero",
    r"\b(attribute|key|index|unboundlocal|zerodivision|assertion|recursion)error\b|internal (server )?error|\b500\b",
    r"nil pointer|panic: |undefinedcolumn|nameerror|modulenotfounderror|nullpointer|undefined is not",
    r"cannot read propert|has no len\(\)|not json serializable|can only concatenate",
    r"^error: ['\"][^'\"\n]*['\"]$",  # a Python KeyError prints only the key
)
"""Bugs in the code of the tool."""

_WRONG_CALL = compile_alternatives(
    r"unexpected keyword argument|required positional argument|validation errors? for|takes \d+ positional",
    r"e_(args?|tool|refused|order|state|syntax|invalid|value|type)\b|\b(400|422)\b|bad request",
    r"\btool .{0,60}not found|no tool named",
    r"unknown (tool|function|command|argument|parameter)|\binvalid\b|malformed|syntax error",
    r"\bmust (be|match|cover|have|not|include)|\bshould (be|match|have)|\brequires?\b|is required|\bmissing\b",
    r"does not add up|do(es)? not match|not permitted|not a valid|wrong|out of order|out of range|exceeds",
)
"""Calls that do not fit the tool: unknown, malformed or missing arguments, or a broken rule."""

_REFUSED = compile_alternatives(
    r"cannot be|can't be|can only be|no se puede|not available|unavailable|sin stock|out of stock|not enough|already",
    r"\bya (existe|fue)|insufficient|expired|denied|forbidden|not allowed|no longer|none left|fully booked|sold out",
    r"declined|closed",
)
"""Refusals because of the state of the environment."""

_NOT_FOUND = compile_alternatives(
    r"not found|no such|does ?n[o']t exist|no existe|no encontrad|no se encontr|e_unknown|\bunknown\b|could not find"
)
"""Records that do not exist."""

_SHELL_WRONG_CALL = compile_alternatives(
    r"^(/\w+)*/?(ba)?sh: .*(no such file|not found)|command not found|can't cd|syntax ?error|nameerror",
    r"indentationerror",
    r"unrecognized (option|argument)|invalid option|^usage:|no replacement was performed|proposed edit has introduced",
    r"parameter .{0,40}required|^error:\s+invalid|no rule to make target|(old|new)_str",
    flags=re.IGNORECASE | re.MULTILINE,
)
"""Commands and edits that are wrong by themselves."""

_SHELL_ENVIRONMENT = compile_alternatives(
    r"modulenotfounderror|importerror|unable to locate package|failed to fetch|could not resolve|temporary failure",
    r"cannot execute binary|no space left|internal error",
)
"""Packages, network or disk space that the sandbox lacks."""


def classify_errors(draft: Draft) -> Draft:
    """Set the kind of error of each tool result that is one.

    Args:
        draft: The episode.

    Returns:
        The draft with ``error`` set on these steps, and one verdict for each.
    """
    steps, verdicts = list(draft.steps), []
    done = [action for action in extract_actions(steps) if len(action.result_indices) == len(action.calls)]
    messages = {
        result: find_error_message(call, steps[result].step.content)
        for action in done
        for call, result in zip(action.calls, action.result_indices, strict=True)
    }
    if not any(messages.values()):
        return draft
    facts, later_calls = ObservedFacts(steps), _LaterCalls(done, messages)
    for number, action in enumerate(done):
        for call, result in zip(action.calls, action.result_indices, strict=True):
            message = messages[result]
            if message is None:
                continue
            if runs_agent_code(call):
                kind = _classify_shell_error(message)
            else:
                looked_up_next = number + 1 < len(done) and was_looked_up_next(
                    call, message, done[number + 1], messages
                )
                failure = _FailedCall(call, message, action.index, number, looked_up_next)
                kind = _classify_tool_error(failure, facts, later_calls)
            steps[result] = replace(steps[result], error=kind)
            verdicts.append(StageVerdict(STAGE, kind.value, _to_one_line(message), steps[result].source_index))
    return draft.with_steps(tuple(steps), *verdicts)


def _classify_shell_error(message: str) -> ErrorKind:
    if _SHELL_ENVIRONMENT.search(message):
        return ErrorKind.ENVIRONMENT
    if _SHELL_WRONG_CALL.search(message):
        return ErrorKind.CAUSAL
    return ErrorKind.TRANSIENT if _TRANSIENT.search(message) else ErrorKind.INFORMATIVE


@dataclass(frozen=True)
class _FailedCall:
    """A call whose result is an error."""

    call: ToolCall
    message: str
    index: int
    """Index of the agent's step."""
    number: int
    """Number of the action, counted from 0."""
    looked_up_next: bool
    """Whether the next action looked up why the call was refused."""


def _classify_tool_error(failure: _FailedCall, facts: ObservedFacts, later_calls: "_LaterCalls") -> ErrorKind:
    call, message = failure.call, failure.message
    wording = _without_argument_values(message, call)
    if _TRANSIENT.search(wording):
        return ErrorKind.TRANSIENT
    if _TOOL_BUG.search(wording):
        avoided = later_calls.changed_call_avoided_error(call, message, failure.number)
        return ErrorKind.CAUSAL if avoided else ErrorKind.ENVIRONMENT
    if _WRONG_CALL.search(wording):
        return ErrorKind.CAUSAL
    success = later_calls.next_success(call, failure.number)
    if success is not None and call_signature(success.call) == call_signature(call):
        return ErrorKind.INFORMATIVE  # the same call worked later, so it was right
    if success is not None and _was_misspelled(failure, success, facts):
        return ErrorKind.CAUSAL
    if _NOT_FOUND.search(wording) or _REFUSED.search(wording):
        avoidable = failure.looked_up_next or was_avoidable(call, message, facts, failure.index)
        return ErrorKind.CAUSAL if avoidable else ErrorKind.INFORMATIVE
    return ErrorKind.CAUSAL if success else ErrorKind.INFORMATIVE


def _without_argument_values(message: str, call: ToolCall) -> str:
    """Remove the argument values that a message quotes. ``U-INVALID not found`` does not mean an invalid call."""
    for value in sorted(string_values(parse_arguments(call) or {}), key=len, reverse=True):
        if len(value) > 2:
            message = message.replace(value, "…")
    return message


class _MadeCall(NamedTuple):
    """A call with a result."""

    number: int
    """Number of its action, counted from 0."""
    step_index: int
    """Index of the agent's step."""
    call: ToolCall
    result: int
    """Index of the step with its result."""


class _LaterCalls:
    """The calls of each tool after an action, and which of them succeeded."""

    def __init__(self, done: Sequence[Action], messages: Mapping[int, str | None]) -> None:
        self._messages = messages
        self._calls: defaultdict[str, list[_MadeCall]] = defaultdict(list)
        self._successes: defaultdict[str, list[_MadeCall]] = defaultdict(list)
        for number, action in enumerate(done):
            for call, result in zip(action.calls, action.result_indices, strict=True):
                made = _MadeCall(number, action.index, call, result)
                self._calls[call.name].append(made)
                if messages[result] is None:
                    self._successes[call.name].append(made)

    def changed_call_avoided_error(self, call: ToolCall, message: str, number: int) -> bool:
        """Return whether the next call of the tool had other arguments and did not get the same error message."""
        retry = _next_after(self._calls[call.name], number)
        if retry is None:
            return False
        return call_signature(retry.call) != call_signature(call) and self._messages[retry.result] != message

    def next_success(self, call: ToolCall, number: int) -> _MadeCall | None:
        """Return the next call of the same tool whose result is no error."""
        return _next_after(self._successes[call.name], number)


def _next_after(calls: Sequence[_MadeCall], number: int) -> _MadeCall | None:
    index = bisect_right(calls, number, key=lambda made: made.number)
    return calls[index] if index < len(calls) else None


def _was_misspelled(failure: _FailedCall, success: _MadeCall, facts: ObservedFacts) -> bool:
    """Return whether a later call had to spell the same record differently, and the agent could know the spelling."""
    return _names_same_record(failure.call, success.call) and not _were_both_mentioned(failure, success, facts)


def _names_same_record(call: ToolCall, retry: ToolCall) -> bool:
    """Return whether both calls name one record in two spellings.

    Examples are ``1234`` and ``HD-1234``, or ``Ann Bell`` and ``Bell, Ann``.
    """
    values = [string_values(parse_arguments(made) or {}) for made in (call, retry)]
    first, second = (Counter(NAME_PARTS.findall(" ".join(texts).lower())) for texts in values)
    first_ids, second_ids = (sorted(part for text in texts for part in identifying_parts(text)) for texts in values)
    return bool(first_ids) and first_ids == second_ids and (first <= second or second <= first)


def _were_both_mentioned(failure: _FailedCall, success: _MadeCall, facts: ObservedFacts) -> bool:
    """Return whether the agent had been told both spellings. Then they may well be two different records."""
    first, second = (string_values(parse_arguments(call) or {}) for call in (failure.call, success.call))
    return any(facts.was_mentioned_exactly(value, failure.index) for value in first if value not in second) and any(
        facts.was_mentioned_exactly(value, success.step_index) for value in second if value not in first
    )


def _to_one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_DETAIL_CHARS else f"{line[: MAX_DETAIL_CHARS - 1]}…"
