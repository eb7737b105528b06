"""What an episode itself shows, without asking anyone. Where it is not sure, it says no."""

import re
from collections.abc import Iterator, Sequence

from looper.jobs.synthesis.actions import parsed, reads
from looper.jobs.synthesis.draft import Placed
from looper.platform.domain.trajectory import ToolCall

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_WRITING = re.compile(
    r"^(add|append|apply|approve|archive|assign|book|buy|cancel|change|charge|commit|create|delete|deliver|disable|edit"
    r"|enable|exchange|grant|insert|invite|issue|modify|move|order|pay|place|post|publish|purchase|refund|register"
    r"|remove|rename|reply|reschedule|reserve|return|revoke|save|schedule|send|set|share|update|upload|write)$",
    re.IGNORECASE,
)
"""Words in the names of tools that change something. What another tool does, its name does not tell."""
_REFUSAL = re.compile(
    r"error|exception|fail|invalid|denied|refused|declined|forbidden|unauthori[sz]ed|unknown|unavailable|already|unable|"
    r"missing|expired|timed? ?out|\b(no|not|none|cannot|can't|could ?n[o']t|E_\w+)\b",
    re.IGNORECASE,
)
"""Words for which an answer is not taken for a plain yes, even where it is not known to be an error."""
_SPECIFIC = re.compile(r"[\w@#:./-]*\d[\w@#:./-]*")


def shows(steps: Sequence[Placed], request: str) -> bool:
    """Whether the observations show that what the episode changed is what ``request`` asks for.

    Something was changed; ``request`` names every value that went into every change; and whatever has a digit in
    ``request`` comes from what was done, not from what was asked for before.
    """
    changes = [_values(call) for call in successful_writes(steps)]
    if not changes or not all(changes):
        return False
    done = [each for each in steps if each.step.source == "tool" or each.step.tool_calls]
    return all(_mentions(request, value) for values in changes for value in values) and grounded(request, done)


def successful_writes(steps: Sequence[Placed]) -> Iterator[ToolCall]:
    """The agent's calls that changed something: named for it, and answered by something that is no refusal.

    Errors among the answers must have been told apart before.
    """
    answers = {each.step.call_id: each for each in steps if each.step.source == "tool"}
    for each in steps:
        for call in each.step.tool_calls if each.step.source == "agent" else ():
            answer = answers.get(call.id)
            if answer is None or answer.error is not None or _REFUSAL.search(answer.step.content):
                continue
            if not reads(call.name) and any(_WRITING.match(word) for word in _WORD.findall(call.name)):
                yield call


def grounded(text: str, steps: Sequence[Placed]) -> bool:
    """Whether the numbers, dates and identifiers in ``text`` occur in ``steps``: none of them is invented."""
    parts = ((each.step.content, *(call.arguments for call in each.step.tool_calls)) for each in steps)
    known = "\n".join(part for each in parts for part in each)
    return all(_mentions(known, found.strip(".:/-")) for found in _SPECIFIC.findall(text))


def _values(call: ToolCall) -> list[str]:
    """The words and numbers among the arguments, however deep."""
    return list(_leaves(parsed(call)))


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _mentions(text: str, value: str) -> bool:
    """As a whole: 1 is mentioned neither in 2011 nor in 1.5."""
    return re.search(rf"(?<!\w)(?<!\d\.){re.escape(value)}(?!\w|\.\d)", text, re.IGNORECASE) is not None
