"""The plan of what to replace in one episode: find all sensitive values first, then replace each wherever it occurs.

``stages/scrub.py`` scans the texts of an episode, builds the plan from all of them, and applies it to each. Values are
found by the names of fields in JSON, and in free text by ``personal_data.py``, ``credentials.py`` and
``labeled_values.py``; ``known_values.py`` then finds their other occurrences.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Any, Self

from looper.jobs.synthesis.sensitive.credentials import find_credentials
from looper.jobs.synthesis.sensitive.fields import is_plausible_value
from looper.jobs.synthesis.sensitive.json_leaves import dump_json_like, map_leaves, parse_json
from looper.jobs.synthesis.sensitive.kinds import SensitiveKind, SensitiveSpan
from looper.jobs.synthesis.sensitive.known_values import MIN_NUMBER_DIGITS, KnownValues, find_known_values
from looper.jobs.synthesis.sensitive.labeled_values import find_labeled_values
from looper.jobs.synthesis.sensitive.names import WORD
from looper.jobs.synthesis.sensitive.personal_data import find_personal_data, find_self_introductions
from looper.jobs.synthesis.sensitive.placeholders import Placeholders, canonical_form

_SEPARATOR = "\n\x00\n"
"""Separates texts that are searched together, which is much faster than one by one. No pattern matches it."""


@dataclass(frozen=True)
class ScannedText:
    """The content of a step or the arguments of a call, and the parts of it to search."""

    text: str
    """The text as it was."""
    json: Any
    """The parsed text, or None if it is no JSON object or list."""
    about_person: bool
    """Whether the tool's name says that the arguments describe a person, as ``find_customer`` does."""
    is_user_message: bool
    """Whether a user wrote it in plain words."""
    strings: tuple[str, ...]
    """What is searched: the text itself, or the strings of its JSON that are not in ``fields``."""
    fields: tuple[tuple[SensitiveKind, str], ...]
    """Kind and value of the JSON fields whose names tell the kind."""
    numbers: tuple[str, ...]
    """The other long whole numbers of its JSON."""

    @classmethod
    def from_text(cls, text: str, *, about_person: bool = False, is_user: bool = False) -> Self:
        """Parse a text and collect the parts to search.

        Args:
            text: The content of a step or the arguments of a call.
            about_person: Whether the text describes a person.
            is_user: Whether a user wrote the text.

        Returns:
            The scanned text.
        """
        json = parse_json(text)
        if json is None:
            return cls(text, None, about_person, is_user, (text,), (), ())
        strings: dict[str, None] = {}
        fields: dict[tuple[SensitiveKind, str], None] = {}
        numbers: dict[str, None] = {}

        def collect(value: Any, kind: SensitiveKind | None) -> Any:
            plain = str(value)
            if kind is not None and is_plausible_value(kind, plain):
                fields[kind, plain] = None
            elif isinstance(value, str):
                strings[value] = None
            elif len(plain) >= MIN_NUMBER_DIGITS:
                numbers[plain] = None
            return value

        map_leaves(json, collect, about_person=about_person)
        return cls(text, json, about_person, False, tuple(strings), tuple(fields), tuple(numbers))


@dataclass(frozen=True)
class ReplacementPlan:
    """What each text, field and number of one episode becomes."""

    texts: dict[str, tuple[str, Counter[SensitiveKind]]]
    """For each text that changes, the new text and how many values of each kind were replaced."""
    fields: dict[tuple[SensitiveKind, str], str]
    """The new value of each field whose name tells its kind."""
    numbers: dict[str, SensitiveKind]
    """The kinds of numbers that are replaced wherever they occur, by their digits."""
    placeholders: Placeholders
    """The placeholders of the episode."""

    @classmethod
    def from_texts(cls, texts: Sequence[ScannedText]) -> Self:
        """Find all sensitive values of an episode and choose their placeholders.

        Args:
            texts: All texts of the episode, in order.

        Returns:
            The plan for these texts.
        """
        is_user_message = dict.fromkeys(chain.from_iterable(text.strings for text in texts), False)
        is_user_message |= {text.text: True for text in texts if text.is_user_message}
        fields = tuple(dict.fromkeys(chain.from_iterable(text.fields for text in texts)))
        joined = _SEPARATOR.join(is_user_message)
        starts = list(accumulate((len(text) + len(_SEPARATOR) for text in is_user_message), initial=0))
        spans = [*find_personal_data(joined), *find_credentials(joined), *find_labeled_values(joined)]
        for start, (text, is_user) in zip(starts, is_user_message.items(), strict=False):
            if is_user:
                spans += (
                    SensitiveSpan(start + name.start, start + name.end, name.kind)
                    for name in find_self_introductions(text)
                )
        known = KnownValues.from_findings([*fields, *((span.kind, joined[span.start : span.end]) for span in spans)])
        placeholders = Placeholders(joined, {canonical_form(kind, value) for kind, value in known.values})
        spans += find_known_values(joined, known)
        return cls(
            _replace_spans(list(is_user_message), starts, spans, known.name_words, placeholders),
            {(kind, value): _replace_value(kind, value, known.name_words, placeholders) for kind, value in fields},
            known.numbers,
            placeholders,
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing needs to be replaced."""
        return not self.texts and not self.fields

    def apply(self, text: ScannedText) -> tuple[str, Counter[SensitiveKind]]:
        """Replace the sensitive values of a text.

        Args:
            text: One of the texts that the plan was built from.

        Returns:
            The new text, which is JSON with the same layout if it was JSON, and how many values of each kind were
            replaced.
        """
        if text.json is None:
            return self.texts.get(text.text, (text.text, Counter()))
        counts: Counter[SensitiveKind] = Counter()
        if not self._affects(text):
            return text.text, counts
        new = map_leaves(text.json, partial(self._replace_leaf, counts), about_person=text.about_person)
        return (dump_json_like(new, text.text) if counts.total() else text.text), counts

    def _affects(self, text: ScannedText) -> bool:
        """Return whether a JSON text may change. Most tool results do not, so they need not be visited again."""
        return not (
            self.texts.keys().isdisjoint(text.strings)
            and self.fields.keys().isdisjoint(text.fields)
            and self.numbers.keys().isdisjoint(text.numbers)
        )

    def _replace_leaf(self, counts: Counter[SensitiveKind], value: Any, kind: SensitiveKind | None) -> Any:
        """Return the new value of a string or whole number in JSON and count what was replaced."""
        plain = str(value)
        if kind is not None and (kind, plain) in self.fields:
            new = self.fields[kind, plain]
            counts[kind] += new != plain
            return new if isinstance(value, str) else int(new)
        if isinstance(value, str):
            new, replaced = self.texts.get(value, (value, None))
            counts.update(replaced or ())
            return new
        number_kind = self.numbers.get(plain)
        if number_kind is None:
            return value
        counts[number_kind] += 1
        return int(self.placeholders.for_value(number_kind, plain))


def _replace_spans(
    texts: Sequence[str],
    starts: Sequence[int],
    spans: Sequence[SensitiveSpan],
    name_words: dict[str, bool],
    placeholders: Placeholders,
) -> dict[str, tuple[str, Counter[SensitiveKind]]]:
    """Return the texts that change, with the new text and the number of replacements of each kind.

    Of overlapping spans the first one is replaced, and the longest of those with the same start.
    """
    replacements: dict[int, list[tuple[int, int, str, SensitiveKind]]] = defaultdict(list)
    last_end = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        index = bisect_right(starts, span.start) - 1
        text, offset = texts[index], starts[index]
        if span.start < last_end or span.end > offset + len(text):
            continue
        last_end = span.end
        start, end = span.start - offset, span.end - offset
        new = _replace_value(span.kind, text[start:end], name_words, placeholders)
        replacements[index].append((start, end, new, span.kind))
    changed: dict[str, tuple[str, Counter[SensitiveKind]]] = {}
    for index, replaced in replacements.items():
        pieces, done = [], 0
        for start, end, new, _ in replaced:
            pieces += [texts[index][done:start], new]
            done = end
        counts = Counter(kind for *_, kind in replaced)
        changed[texts[index]] = ("".join([*pieces, texts[index][done:]]), counts)
    return changed


def _replace_value(kind: SensitiveKind, value: str, name_words: dict[str, bool], placeholders: Placeholders) -> str:
    """Return what replaces a value. Of a name, only the known words are replaced."""
    if not kind.is_name:
        return placeholders.for_value(kind, value)
    return WORD.sub(
        lambda word: (
            placeholders.for_name_word(word[0], is_family_name=name_words[word[0].lower()])
            if word[0].lower() in name_words
            else word[0]
        ),
        value,
    )
