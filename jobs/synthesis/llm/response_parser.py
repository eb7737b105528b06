"""Parsing of a model's response, which should be one JSON object. A model may wrap it in prose or write something else.

The stages in this folder call these functions, and the verdicts for missing and unusable responses are made here.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from looper.jobs.synthesis.draft import StageVerdict
from looper.jobs.synthesis.llm.prompt import to_one_line

MAX_RESPONSE_CHARACTERS = 20_000
"""Maximum number of characters of a response that are read, without the reasoning before it."""

_MARKUP = re.compile(r"</?\w*(?:tool|function|notes|think)\w*\b|<\||\|>|\[/?INST\]|\[TOOL_CALLS\]", re.IGNORECASE)


class Judgment(NamedTuple):
    """A yes or no of a model, with its reason."""

    is_yes: bool
    """Whether the model says yes."""
    reason: str
    """One line of the model, possibly empty."""


def parse_response(response: str, name: str) -> dict[str, Any] | None:
    """Find the JSON object in a response that has a certain member.

    Args:
        response: Text of the model, possibly with reasoning in ``<think>`` tags.
        name: Name of the member.

    Returns:
        The object. None if there is none, or if several objects differ in this member: then the model quotes something
        or is not sure.
    """
    text = response.rpartition("</think>")[2].partition("<think>")[0]
    matches = [value for value in _json_objects(text[:MAX_RESPONSE_CHARACTERS]) if name in value]
    if not matches or any(match[name] != matches[0][name] for match in matches):
        return None
    return matches[0]


def parse_judgment(response: str, name: str) -> Judgment | None:
    """Parse a response such as ``{"<name>": true|false, "why": "..."}``.

    Args:
        response: Text of the model.
        name: Name of the member with the yes or no.

    Returns:
        The judgment, or None if the response has another form.
    """
    parsed = parse_response(response, name)
    if parsed is None:
        return None
    value = parsed[name]
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower())
    if not isinstance(value, bool):
        return None
    reason = parsed.get("why")
    return Judgment(value, to_one_line(reason) if isinstance(reason, str) else "")


def has_markup(text: str) -> bool:
    """Return whether a text would be read as more than text.

    Args:
        text: Text that a model wrote.

    Returns:
        True if it contains a tool call, a marker of a chat template, or a tag that ends a section of a prompt.
    """
    return _MARKUP.search(text) is not None


def no_response(stage: str, effect: str = "") -> StageVerdict:
    """Create the verdict for a request that the model did not answer.

    Args:
        stage: Name of the stage.
        effect: What this means for the draft, in a few words.

    Returns:
        The verdict.
    """
    return StageVerdict(stage, f"{stage}_silent", f"no response from the model{effect and '; '}{effect}")


def unusable_response(stage: str, response: str, effect: str = "") -> StageVerdict:
    """Create the verdict for a response that does not have the requested form.

    Args:
        stage: Name of the stage.
        response: Text of the model. Its beginning and end are quoted.
        effect: What this means for the draft, in a few words.

    Returns:
        The verdict.
    """
    quoted = to_one_line(response, 80)
    return StageVerdict(stage, f"{stage}_nonsense", f"unusable response {quoted!r}{effect and '; '}{effect}")


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects in ``text``, in order."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError:
            return
        except ValueError:
            end = start + 1
        else:
            yield value
        start = text.find("{", end)
