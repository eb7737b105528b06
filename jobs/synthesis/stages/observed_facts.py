"""What an agent could know when it made a call: the names and numbers that earlier messages and tool results told it.

``classify_errors.py`` calls this module to decide whether a refused call was the agent's own error.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from looper.jobs.synthesis.actions import Action, is_read_only_tool, parse_arguments
from looper.jobs.synthesis.draft import DraftStep
from looper.platform.domain.trajectory import Step, ToolCall

NAME_PARTS = re.compile(r"[^\W\d_]+|\d+")
"""The words and numbers that names and ids are made of."""

_MAX_COMMON_DIGITS = 3
"""Maximum length of numbers that many records have in common, such as 001."""

_NUMBER_WITH_PREFIX = re.compile(rf"([^\W\d_]+)[-_ #]?(\d{{1,{_MAX_COMMON_DIGITS}}})(?!\d)")


def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_EVIDENCE = (
    (_pattern("delivered|pending"), _pattern("delivered|pending|status")),
    (_pattern("expired|forbidden|locked|approval"), _pattern("expired|forbidden|locked|approval")),
    (_pattern("seat"), _pattern("seat")),
    (_pattern("balance|insufficient|saldo"), _pattern("balance|amount|saldo")),
    (_pattern("stock|available|disponib"), _pattern("stock|available|disponib")),
    (_pattern("paid|pagad"), _pattern("paid|pagad|payment_status")),
    (_pattern("return|devoluci"), _pattern("return|devoluci")),
)
"""Pairs of the reason of a refusal and what an earlier tool result shows if it could have told that reason."""

_NO_VALUE = re.compile(
    r"(unknown|none|null|n/?a|tbd|todo|placeholder|example|string|desconocido|[?.x*-]+)?", re.IGNORECASE
)
"""What agents write in an argument whose value they do not have."""

_ID_ARGUMENT = re.compile(r"(^|_)(id|ids|number|code|no)$|^id_", re.IGNORECASE)
"""Names of arguments that identify a record."""


class ObservedFacts:
    """The names and numbers that an agent was told before a step, and whether a user or a tool told them."""

    def __init__(self, steps: Sequence[DraftStep]) -> None:
        """Index the messages of users and the tool results of an episode.

        Args:
            steps: The steps of one draft.
        """
        self._steps = steps
        self._mentions: defaultdict[str, list[int]] = defaultdict(list)
        self._first_shown: dict[tuple[str, re.Pattern[str] | None], int] = {}
        self._first_exact_mention: dict[str, int] = {}
        for index, step in enumerate(steps):
            if step.step.source in ("user", "tool"):
                for part in _parts_in(step.step.content):
                    self._mentions[part].append(index)

    def was_mentioned(self, part: str, before: int) -> bool:
        """Return whether the user or a tool mentioned a word or number.

        The instructions do not count, because their numbers are those of other cases.

        Args:
            part: A word or number in lower case.
            before: Index of the step that it must precede.

        Returns:
            True if an earlier step mentions it.
        """
        mentions = self._mentions.get(part)
        return bool(mentions and mentions[0] < before)

    def was_mentioned_exactly(self, value: str, before: int) -> bool:
        """Return whether the user or a tool mentioned a value in this spelling, not as a part of a longer name.

        Args:
            value: The value of an argument.
            before: Index of the step that it must precede.

        Returns:
            True if an earlier step mentions it.
        """
        if value not in self._first_exact_mention:
            parts = NAME_PARTS.findall(value.lower())
            candidates = min((self._mentions.get(part, []) for part in parts), key=len, default=[])
            exact = re.compile(rf"(?<![\w.#@-]){re.escape(value)}(?![\w@-]|\.\w)", re.IGNORECASE)
            matches = (index for index in candidates if exact.search(self._steps[index].step.content))
            self._first_exact_mention[value] = next(matches, len(self._steps))
        return self._first_exact_mention[value] < before

    def was_shown_by_tool(self, part: str, before: int, evidence: re.Pattern[str] | None) -> bool:
        """Return whether a tool result mentioned a word or number together with some evidence.

        Args:
            part: A word or number in lower case.
            before: Index of the step that it must precede.
            evidence: What the tool result must contain, or None if any tool result will do.

        Returns:
            True if an earlier tool result does.
        """
        if (part, evidence) not in self._first_shown:
            matches = (
                index for index in self._mentions.get(part, ()) if _shows_evidence(self._steps[index].step, evidence)
            )
            self._first_shown[part, evidence] = next(matches, len(self._steps))
        return self._first_shown[part, evidence] < before


def was_avoidable(call: ToolCall, message: str, facts: ObservedFacts, index: int) -> bool:
    """Return whether the agent could have known that a call would be refused.

    That is so if it made up a value, or if a tool result had shown why the call is not possible.

    Args:
        call: The refused call.
        message: The error message.
        facts: What the agent was told.
        index: Index of the step with the call.

    Returns:
        True if the refusal was the agent's own error.
    """
    arguments = parse_arguments(call) or {}
    ids = {name: value for name, value in arguments.items() if _ID_ARGUMENT.search(name)}
    if any(" " in value for value in ids.values() if isinstance(value, str)):
        return True  # several words in place of an id
    if any(_NO_VALUE.fullmatch(value) for value in arguments.values() if isinstance(value, str) and value):
        return True
    parts = _disputed_parts(call, message)
    if not all(facts.was_mentioned(part, index) for part in parts):
        return True
    if is_read_only_tool(call.name):
        return False
    return any(facts.was_shown_by_tool(part, index, _evidence_for(message)) for part in parts)


def was_looked_up_next(call: ToolCall, message: str, following: Action, messages: Mapping[int, str | None]) -> bool:
    """Return whether the agent tried to change something first and looked up the reason of the refusal afterwards.

    Args:
        call: The refused call.
        message: Its error message.
        following: The next action of the agent.
        messages: The error message of each tool result, by the index of its step, or None if it is no error.

    Returns:
        True if a result of ``following`` shows the reason.
    """
    if is_read_only_tool(call.name):
        return False
    parts = _disputed_parts(call, message)
    evidence = _evidence_for(message)
    results = zip(following.calls, following.result_indices, following.observations, strict=True)
    for lookup, result, observation in results:
        if not is_read_only_tool(lookup.name) or messages[result] is not None:
            continue
        if (evidence is None or evidence.search(observation)) and not parts.isdisjoint(_parts_in(observation)):
            return True
    return False


def identifying_parts(value: str) -> list[str]:
    """Return the parts that identify a record in every spelling of its name or id.

    Args:
        value: A name or id, such as ``HD-1234`` or ``Bell, Ann``.

    Returns:
        Its numbers, or its words in lower case if it has no number. Parts of one character are left out.
    """
    parts = [part for part in NAME_PARTS.findall(value.lower()) if len(part) > 1]
    return [part for part in parts if part.isdigit()] or parts


def string_values(value: object) -> list[str]:
    """Return all strings in a JSON value in order, without the keys of objects.

    Args:
        value: A JSON value, such as the arguments of a call.

    Returns:
        The strings.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for child in value.values() for text in string_values(child)]
    if isinstance(value, list):
        return [text for child in value for text in string_values(child)]
    return []


def _disputed_parts(call: ToolCall, message: str) -> set[str]:
    """Return the distinctive parts of the values that a refusal is about.

    These are the values that the message repeats, or the ids if it repeats none.
    """
    arguments = parse_arguments(call) or {}
    repeated = [value for value in string_values(arguments) if value and value in message]
    ids = {name: value for name, value in arguments.items() if _ID_ARGUMENT.search(name)}
    values = repeated or string_values(ids) or string_values(arguments)[:1]
    return {part for value in values for part in _distinctive_parts(value)}


def _distinctive_parts(value: str) -> list[str]:
    """Return the parts of a name or id that every spelling of it has, such as ``1234`` of ``HD-1234``.

    A short number is not distinctive without the letters in front of it, so ``DRINK-001`` gives ``drink001``.
    """
    parts = identifying_parts(value)
    if parts and parts[0].isdigit() and max(map(len, parts)) <= _MAX_COMMON_DIGITS:
        return _numbers_with_prefix(value) or parts
    return parts


def _evidence_for(message: str) -> re.Pattern[str] | None:
    """Return what a tool result shows if it could have told the reason of a refusal, or None if any could."""
    return next((evidence for reason, evidence in _EVIDENCE if reason.search(message)), None)


def _shows_evidence(step: Step, evidence: re.Pattern[str] | None) -> bool:
    return step.source == "tool" and (evidence is None or evidence.search(step.content) is not None)


def _parts_in(text: str) -> set[str]:
    return {*NAME_PARTS.findall(text.lower()), *_numbers_with_prefix(text)}


def _numbers_with_prefix(text: str) -> list[str]:
    return ["".join(parts) for parts in _NUMBER_WITH_PREFIX.findall(text.lower())]
