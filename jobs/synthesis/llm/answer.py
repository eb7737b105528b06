"""Reading what a model answered: asked for one JSON object, it may wrap it in prose, or say something else."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from looper.jobs.synthesis.draft import StageVerdict
from looper.jobs.synthesis.llm.prompt import in_one_line

LONGEST = 20_000
"""Characters of an answer that are read, without what the model thought before it."""

_MARKUP = re.compile(r"</?\w*(?:tool|function|notes|think)\w*\b|<\||\|>|\[/?INST\]|\[TOOL_CALLS\]", re.IGNORECASE)


class Opinion(NamedTuple):
    """Yes or no, and why."""

    yes: bool
    why: str


def read_object(answer: str, name: str) -> dict[str, Any] | None:
    """The object in ``answer`` that has the member ``name``.

    None if there is none, and if there are several that differ in it: then the model quotes, or does not know.
    """
    said = answer.rpartition("</think>")[2].partition("<think>")[0]
    found = [each for each in _objects(said[:LONGEST]) if name in each]
    if not found or any(each[name] != found[0][name] for each in found):
        return None
    return found[0]


def read_opinion(answer: str, name: str) -> Opinion | None:
    """Of an answer ``{"<name>": true|false, "why": "..."}``; None if it is no such answer."""
    read = read_object(answer, name)
    if read is None:
        return None
    value = read[name]
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower())
    if not isinstance(value, bool):
        return None
    why = read.get("why")
    return Opinion(value, in_one_line(why) if isinstance(why, str) else "")


def has_markup(text: str) -> bool:
    """Whether ``text`` would be read as more than text: a tool call, a marker of a chat template, a section's end."""
    return _MARKUP.search(text) is not None


def silent(stage: str, kept: str = "") -> StageVerdict:
    """The model did not answer."""
    return StageVerdict(stage, f"{stage}_silent", f"no answer from the model{kept and '; '}{kept}")


def nonsense(stage: str, answer: str, kept: str = "") -> StageVerdict:
    """The model answered something else than it was asked for."""
    return StageVerdict(stage, f"{stage}_nonsense", f"unusable answer {in_one_line(answer, 80)!r}{kept and '; '}{kept}")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The outermost JSON objects in ``text``, in their order."""
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
