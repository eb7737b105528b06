"""What an agent could have known when it made a call: what it had heard, from whom, and what it looked up too late."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from looper.jobs.synthesis.actions import Action, parsed, reads
from looper.jobs.synthesis.draft import Placed
from looper.platform.domain.trajectory import Step, ToolCall


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_SHORT = 3
"""Digits of a number that many things have in common."""
_SHOWN_BY = (
    (_words("delivered|pending"), _words("delivered|pending|status")),
    (_words("expired|forbidden|locked|approval"), _words("expired|forbidden|locked|approval")),
    (_words("seat"), _words("seat")),
    (_words("balance|insufficient|saldo"), _words("balance|amount|saldo")),
    (_words("stock|available|disponib"), _words("stock|available|disponib")),
    (_words("paid|pagad"), _words("paid|pagad|payment_status")),
    (_words("return|devoluci"), _words("return|devoluci")),
)
"""What a refusal is for, and what an answer would have shown of that before."""
_NOTHING = re.compile(
    r"(unknown|none|null|n/?a|tbd|todo|placeholder|example|string|desconocido|[?.x*-]+)?", re.IGNORECASE
)
"""What is written where a value belongs that is not there."""
_NAMED_BY_ID = re.compile(r"(^|_)(id|ids|number|code|no)$|^id_", re.IGNORECASE)


def was_avoidable(call: ToolCall, message: str, heard: "ObservedFacts", at: int) -> bool:
    """Whether the agent made up what it named, or did again or changed what a tool had told it not to be so."""
    arguments = parsed(call) or {}
    names = {name: value for name, value in arguments.items() if _NAMED_BY_ID.search(name)}
    if any(" " in value for value in names.values() if isinstance(value, str)):
        return True  # words, where a number belongs
    if any(_NOTHING.fullmatch(value) for value in arguments.values() if isinstance(value, str) and value):
        return True
    subject = _subject(call, message)
    named = {part for value in subject for part in _telling(value)}
    if not all(heard.of_this_case(part, at) for part in named):
        return True
    if reads(call.name):
        return False
    return any(heard.from_a_tool(part, at, _showing(message)) for part in named)


def looked_up(call: ToolCall, message: str, next_one: Action, said: Mapping[int, str | None]) -> bool:
    """Whether the agent changed something first, and looked up next what would have told it why not."""
    if reads(call.name):
        return False
    named = {part for value in _subject(call, message) for part in _telling(value)}
    shows = _showing(message)
    for again, answer, observed in zip(next_one.calls, next_one.answers, next_one.observed, strict=True):
        if reads(again.name) and said[answer] is None and (shows is None or shows.search(observed)):
            told = _names_in(observed)
            if any(part in told for part in named):
                return True
    return False


def _subject(call: ToolCall, message: str) -> list[str]:
    """The values that a refusal is about: those it repeats, else those that name something."""
    arguments = parsed(call) or {}
    mentioned = [value for value in texts(arguments) if value and value in message]
    names = {name: value for name, value in arguments.items() if _NAMED_BY_ID.search(name)}
    return mentioned or [*texts(names)] or texts(arguments)[:1]


def _showing(message: str) -> re.Pattern[str] | None:
    """What an answer shows that would have told of ``message`` before, or None for anything."""
    return next((shown for why, shown in _SHOWN_BY if why.search(message)), None)


class ObservedFacts:
    """Which names and numbers the agent had heard before a step, and from whom."""

    def __init__(self, steps: Sequence[Placed]) -> None:
        self._steps = steps
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        self._shown: dict[tuple[str, re.Pattern[str] | None], int] = {}
        self._said: dict[str, int] = {}
        for at, each in enumerate(steps):
            if each.step.source in ("user", "tool"):
                for part in _names_in(each.step.content):
                    self._places[part].append(at)

    def of_this_case(self, part: str, before: int) -> bool:
        """From the user or a tool, not from the instructions, whose numbers are of other cases."""
        places = self._places.get(part)
        return bool(places and places[0] < before)

    def as_spelled(self, value: str, before: int) -> bool:
        """From the user or a tool, as a whole: not as part of a longer name."""
        if value not in self._said:
            places = min((self._places.get(part, []) for part in PARTS.findall(value.lower())), key=len, default=[])
            whole = re.compile(rf"(?<![\w.#@-]){re.escape(value)}(?![\w@-]|\.\w)", re.IGNORECASE)
            said = (at for at in places if whole.search(self._steps[at].step.content))
            self._said[value] = next(said, len(self._steps))
        return self._said[value] < before

    def from_a_tool(self, part: str, before: int, shows: re.Pattern[str] | None) -> bool:
        """In an answer that ``shows`` something."""
        if (part, shows) not in self._shown:
            self._shown[part, shows] = next(
                (at for at in self._places.get(part, ()) if _shows(self._steps[at].step, shows)), len(self._steps)
            )
        return self._shown[part, shows] < before


def _shows(step: Step, shows: re.Pattern[str] | None) -> bool:
    return step.source == "tool" and (shows is None or shows.search(step.content) is not None)


def _telling(value: str) -> list[str]:
    """Of a name or number, what would be found again however it was written: ``1234`` of ``HD-1234``.

    A short number says little without the letters before it: ``drink001`` of ``DRINK-001``.
    """
    parts = bare(value)
    if parts and parts[0].isdigit() and max(map(len, parts)) <= _SHORT:
        return _numbered(value) or parts
    return parts


def bare(value: str) -> list[str]:
    """Of a name or number, its numbers, else its words."""
    parts = [part for part in PARTS.findall(value.lower()) if len(part) > 1]
    return [part for part in parts if part.isdigit()] or parts


def _names_in(text: str) -> set[str]:
    return {*PARTS.findall(text.lower()), *_numbered(text)}


def _numbered(text: str) -> list[str]:
    return ["".join(parts) for parts in _NUMBERED.findall(text.lower())]


PARTS = re.compile(r"[^\W\d_]+|\d+")
_NUMBERED = re.compile(rf"([^\W\d_]+)[-_ #]?(\d{{1,{_SHORT}}})(?!\d)")


def texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return []
