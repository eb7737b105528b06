"""What an episode itself shows, without asking a model. In doubt, these functions answer no.

``hindsight.py`` and ``critique.py`` call them.
"""

import re
from collections.abc import Iterator, Sequence

from looper.jobs.synthesis.actions import is_read_only_tool, parse_arguments
from looper.jobs.synthesis.draft import DraftStep
from looper.platform.domain.trajectory import ToolCall

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_WRITE_VERB = re.compile(
    r"^(add|append|apply|approve|archive|assign|book|buy|cancel|change|charge|commit|create|delete|deliver|disable|edit"
    r"|enable|exchange|grant|insert|invite|issue|modify|move|order|pay|place|post|publish|purchase|refund|register"
    r"|remove|rename|reply|reschedule|reserve|return|revoke|save|schedule|send|set|share|update|upload|write)$",
    re.IGNORECASE,
)
"""Words in the names of tools that change something. Other names do not tell what the tool does."""
_REFUSAL = re.compile(
    r"error|exception|fail|invalid|denied|refused|declined|forbidden|unauthori[sz]ed|unknown|unavailable|already|unable|"
    r"missing|expired|timed? ?out|\b(no|not|none|cannot|can't|could ?n[o']t|E_\w+)\b",
    re.IGNORECASE,
)
"""Words after which a tool result does not count as success, even if it is not known to be an error."""
_SPECIFIC = re.compile(r"[\w@#:./-]*\d[\w@#:./-]*")
"""Numbers, dates and identifiers: words with a digit."""


def observations_confirm(steps: Sequence[DraftStep], request: str) -> bool:
    """Return whether the tool results show that the episode changed exactly what a request asks for.

    Args:
        steps: Steps of a draft with classified errors.
        request: A possible request of the user.

    Returns:
        True if something was changed, ``request`` mentions every value of every change, and each word with a digit in
        ``request`` comes from the calls and results, not from the original request.
    """
    changes = [_argument_values(call) for call in successful_writes(steps)]
    if not changes or not all(changes):
        return False
    evidence = [step for step in steps if step.step.source == "tool" or step.step.tool_calls]
    return all(_mentions(request, value) for values in changes for value in values) and is_grounded(request, evidence)


def successful_writes(steps: Sequence[DraftStep]) -> Iterator[ToolCall]:
    """Yield the agent's calls that changed something.

    Args:
        steps: Steps of a draft with classified errors.

    Yields:
        Each call of a tool whose name contains a verb of writing, and whose result is neither an error nor a refusal.
    """
    results = {step.step.call_id: step for step in steps if step.step.source == "tool"}
    for step in steps:
        for call in step.step.tool_calls if step.step.source == "agent" else ():
            result = results.get(call.id)
            if result is None or result.error is not None or _REFUSAL.search(result.step.content):
                continue
            if not is_read_only_tool(call.name) and any(_WRITE_VERB.match(word) for word in _WORD.findall(call.name)):
                yield call


def is_grounded(text: str, steps: Sequence[DraftStep]) -> bool:
    """Return whether the numbers, dates and identifiers in a text occur in an episode.

    Args:
        text: Text that a model wrote.
        steps: Steps of the episode.

    Returns:
        True if each word with a digit occurs in the content or the tool calls of a step.
    """
    parts = ((step.step.content, *(call.arguments for call in step.step.tool_calls)) for step in steps)
    known = "\n".join(part for step_parts in parts for part in step_parts)
    return all(_mentions(known, match.strip(".:/-")) for match in _SPECIFIC.findall(text))


def _argument_values(call: ToolCall) -> list[str]:
    """Return the texts and numbers among the arguments, at any depth."""
    return list(_leaves(parse_arguments(call)))


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for child in value.values():
            yield from _leaves(child)
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child)
    elif isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)


def _mentions(text: str, value: str) -> bool:
    """Return whether ``text`` contains ``value`` as a whole word: neither 2011 nor 1.5 mentions 1."""
    return re.search(rf"(?<!\w)(?<!\d\.){re.escape(value)}(?!\w|\.\d)", text, re.IGNORECASE) is not None
