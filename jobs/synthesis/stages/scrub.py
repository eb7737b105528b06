"""Secrets and personal data are replaced, the same value by the same placeholder throughout an episode.

What an agent learns from an email in an observation is to hand it on in its next call: so the two must stay one. First
everything is found, by the names of fields in JSON, by ``sensitive/`` in free text; then it is replaced wherever it
stands, also where nothing would have told it. Numbers, ids, dates, amounts and code are what the agent works with, and
stay.

The names of people are known from fields and from how they are introduced, not guessed: a name that nothing calls one
is left, and so are the ids of records, unless a known name is written in them. The list of tools is not touched.
"""

import json
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any

from looper.jobs.synthesis.draft import Draft, Placed, StageVerdict
from looper.jobs.synthesis.sensitive.credentials import credentials
from looper.jobs.synthesis.sensitive.dates import dates_in
from looper.jobs.synthesis.sensitive.fields import holds, is_bare_name, is_somebody, kind_of, looks_password
from looper.jobs.synthesis.sensitive.kinds import Found, SensitiveKind
from looper.jobs.synthesis.sensitive.labels import labelled
from looper.jobs.synthesis.sensitive.names import WORD, named_in, words_of_name
from looper.jobs.synthesis.sensitive.people import numbers_in, people, speakers
from looper.jobs.synthesis.sensitive.placeholders import Placeholders, canonical, digits_of

STAGE = "scrub"

DEEPEST = 100
"""JSON that is nested deeper is read as free text."""

_APART = "\n\x00\n"
"""Between texts that are searched as one, which is much faster than one by one. No pattern reaches across it."""

_NAMES = (SensitiveKind.NAME, SensitiveKind.FAMILY)
_IN_DIGITS = (SensitiveKind.PHONE, SensitiveKind.CARD, SensitiveKind.IDENTITY, SensitiveKind.ACCOUNT)
"""Written with and without spaces, brackets and dashes: told by their digits."""

_LEAST_DIGITS = 7

_BEFORE_OTHERS = frozenset("#$€£.,/-")
_AFTER_OTHERS = re.compile(r"[/-]|[.,]\d")
"""Beside numbers that are an order's, an amount's, or part of a path or a longer number."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

Leaf = Callable[[Any, SensitiveKind | None], Any]
"""Takes a string or a whole number and the kind of the field it stands in; returns what to put there."""


@dataclass(frozen=True)
class _TextLeaf:
    """What a step says, or the arguments of one of its calls; and what that is made of."""

    text: str
    json: Any
    """What it says as JSON, or None if it is no object or list."""
    somebody: bool
    """Whether it is about a person by the tool's name, as the arguments of ``find_customer`` are."""
    spoken: bool
    """By a user, in plain words."""
    strings: tuple[str, ...]
    """All that is searched: the text itself, or the strings of its JSON but for ``fields``."""
    fields: tuple[tuple[SensitiveKind, str], ...]
    """The values in its JSON whose field tells what they are."""
    numbers: tuple[str, ...]
    """The other long whole numbers in its JSON."""


@dataclass(frozen=True)
class _KnownPeople:
    """All that an episode gives away."""

    values: tuple[tuple[SensitiveKind, str], ...]
    names: dict[str, bool]
    """The words of people's names in lower case; whether each is a family's."""


@dataclass(frozen=True)
class _Rewriting:
    texts: dict[str, tuple[str, Counter[SensitiveKind]]]
    """Of the texts that change, what becomes of them, and how many of each kind were replaced."""
    fields: dict[tuple[SensitiveKind, str], str]
    """Of the values of fields, what becomes of them."""
    numbers: dict[str, SensitiveKind]
    """Numbers that are personal wherever they stand, by their digits."""
    placeholders: Placeholders

    def concerns(self, text: _TextLeaf) -> bool:
        """Whether something of a JSON text may change: most observations have nothing, and need not be gone through."""
        return not (
            self.texts.keys().isdisjoint(text.strings)
            and self.fields.keys().isdisjoint(text.fields)
            and self.numbers.keys().isdisjoint(text.numbers)
        )


def scrub(draft: Draft) -> Draft:
    """Replace what is secret or personal in the texts and the calls of all steps; verdicts say what, how often, where.

    What was JSON stays JSON, with the same keys in the same order and values of the same types.
    """
    read = [_read(placed) for placed in draft.steps]
    rewriting = _plan(read)
    if not rewriting.texts and not rewriting.fields:
        return draft
    steps, places = [], defaultdict[SensitiveKind, list[int]](list)
    for placed, texts in zip(draft.steps, read, strict=True):
        counts: Counter[SensitiveKind] = Counter()
        steps.append(_put(placed, [_rewrite(text, rewriting, counts) for text in texts]))
        for kind, count in (+counts).items():
            places[SensitiveKind.NAME if kind in _NAMES else kind] += [placed.place] * count
    return draft.with_steps(tuple(steps), *map(_verdict, places, places.values()))


def _verdict(kind: SensitiveKind, places: Sequence[int]) -> StageVerdict:
    count = f"{len(places)} place{'s' * (len(places) > 1)}"
    return StageVerdict(STAGE, "secret" if kind.secret else "personal", f"{kind}: {count}", min(places))


def _read(placed: Placed) -> list[_TextLeaf]:
    step = placed.step
    calls = [_text(call.arguments, somebody=is_somebody(call.name)) for call in step.tool_calls]
    return [_text(step.content, user=step.source == "user"), *calls]


def _text(text: str, *, somebody: bool = False, user: bool = False) -> _TextLeaf:
    content = _parse(text)
    if content is None:
        return _TextLeaf(text, None, somebody, user, (text,), (), ())
    strings: dict[str, None] = {}
    fields: dict[tuple[SensitiveKind, str], None] = {}
    numbers: dict[str, None] = {}

    def sort(value: Any, kind: SensitiveKind | None) -> Any:
        plain = str(value)
        if kind is not None and holds(kind, plain):
            fields[kind, plain] = None
        elif isinstance(value, str):
            strings[value] = None
        elif len(plain) >= _LEAST_DIGITS:
            numbers[plain] = None
        return value

    _visit(content, sort, somebody=somebody)
    return _TextLeaf(text, content, somebody, False, tuple(strings), tuple(fields), tuple(numbers))


def _put(placed: Placed, texts: Sequence[str]) -> Placed:
    content, *arguments = texts
    step = placed.step
    if content == step.content and all(
        new == call.arguments for new, call in zip(arguments, step.tool_calls, strict=True)
    ):
        return placed
    calls = tuple(
        call.model_copy(update={"arguments": new}) for new, call in zip(arguments, step.tool_calls, strict=True)
    )
    return replace(placed, step=step.model_copy(update={"content": content, "tool_calls": calls}))


# --- JSON


def _parse(text: str) -> Any:
    if (not text.startswith(("{", "[")) and text.lstrip()[:1] not in ("{", "[")) or _depth(text) > DEEPEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _depth(text: str) -> int:
    """At least how deep it is nested, as far as that matters."""
    if text.count("{") + text.count("[") <= DEEPEST:
        return 0
    return max(accumulate(1 if bracket in "{[" else -1 for bracket in re.findall(r"[\[\]{}]", text)))


def _dump(value: Any, like: str) -> str:
    """``value`` written as ``like`` is: with the same spacing, and the same characters escaped."""
    text = like.strip()
    bare = _STRING.sub('""', text)
    indent = re.match(r"[\[{]\r?\n([ \t]+)", bare)
    new = json.dumps(
        value,
        ensure_ascii="\\u" in text,
        indent=indent[1] if indent else None,
        separators=(", " if ", " in bare else ",", ": " if ": " in bare else ":"),
    )
    return like.replace(text, new)


def _visit(
    value: Any, leaf: Leaf, kind: SensitiveKind | None = None, *, somebody: bool = False, within: bool = False
) -> Any:
    """``value`` with each string and whole number as ``leaf`` returns it, also ``within`` a string that is JSON."""
    if isinstance(value, str):
        inner = _parse(value) if not within and value.startswith(("{", "[")) else None
        if inner is None:
            return leaf(value, kind)
        new = _visit(inner, leaf, somebody=somebody, within=True)
        return value if new == inner else _dump(new, value)
    if isinstance(value, dict):
        keys = _keys(tuple(value), somebody)
        return {
            leaf(key, None) if "@" in key else key: _visit(each, leaf, of, somebody=about, within=within)
            for (key, each), (of, about) in zip(value.items(), keys, strict=True)
        }
    if isinstance(value, list):
        return [_visit(each, leaf, kind, somebody=somebody, within=within) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return leaf(value, kind)
    return value


@lru_cache(maxsize=1024)
def _keys(keys: tuple[str, ...], somebody: bool) -> tuple[tuple[SensitiveKind | None, bool], ...]:
    """Of each key of an object, what it holds, and whether that is about a person."""
    kinds = [kind_of(key) for key in keys]
    person = somebody or not _OF_PEOPLE.isdisjoint(kinds)
    return tuple(
        (SensitiveKind.NAME if person and is_bare_name(key) else kind, is_somebody(key))
        for key, kind in zip(keys, kinds, strict=True)
    )


_OF_PEOPLE = frozenset({SensitiveKind.EMAIL, SensitiveKind.PHONE, SensitiveKind.BIRTH, SensitiveKind.IDENTITY})
"""What has one of these is a person, and its ``name`` a person's."""


# --- finding


def _plan(read: Sequence[Sequence[_TextLeaf]]) -> _Rewriting:
    every = [text for step in read for text in step]
    texts = dict.fromkeys((string for text in every for string in text.strings), False)
    texts |= {text.text: True for text in every if text.spoken}
    fields = tuple(dict.fromkeys(chain.from_iterable(text.fields for text in every)))
    whole = _APART.join(texts)
    starts = list(accumulate((len(text) + len(_APART) for text in texts), initial=0))
    found = [*people(whole), *credentials(whole), *labelled(whole)]
    for start, (each, spoken) in zip(starts, texts.items(), strict=False):
        if spoken:
            found += (Found(start + said.start, start + said.end, said.kind) for said in speakers(each))
    known = _know([*fields, *((each.kind, whole[each.start : each.end]) for each in found)])
    numbers = {
        digits: kind
        for kind, value in known.values
        if kind in _IN_DIGITS and (digits := canonical(kind, value)).isdigit() and len(digits) >= _LEAST_DIGITS
    }
    placeholders = Placeholders(whole, {canonical(kind, value) for kind, value in known.values})
    spans = [*found, *_elsewhere(whole, known, numbers)]
    changed = _replaced(list(texts), starts, whole, spans, known.names, placeholders)
    new = {each: _in_field(*each, known.names, placeholders) for each in fields}
    return _Rewriting(changed, new, numbers, placeholders)


def _know(told: Sequence[tuple[SensitiveKind, str]]) -> _KnownPeople:
    names: dict[str, bool] = {}
    for kind, value in told:
        if kind in _NAMES:
            for word, family in words_of_name(value, family=kind is SensitiveKind.FAMILY):
                names.setdefault(word, family)
    return _KnownPeople(tuple(dict.fromkeys(each for each in told if each[0] not in _NAMES)), names)


def _elsewhere(whole: str, known: _KnownPeople, numbers: dict[str, SensitiveKind]) -> Iterator[Found]:
    """Where what is known stands, also where nothing beside it tells."""
    for kind, value in known.values:
        for literal in _literals(kind, value):
            yield from (Found(start, start + len(literal), kind) for start in _occurrences(whole, literal))
    if numbers:
        for start, end in numbers_in(whole):
            number = _kind_of_number(whole[start:end], numbers)
            if number:
                yield Found(start, end, number)
    births = {canonical(kind, value) for kind, value in known.values if kind is SensitiveKind.BIRTH}
    for year in {birth[:4] for birth in births}:
        yield from _born(whole, year, births)
    if known.names:
        yield from (Found(each.start, each.end, SensitiveKind.NAME) for each in named_in(whole, known.names))


def _born(whole: str, year: str, births: Collection[str]) -> Iterator[Found]:
    """Where a date of ``births`` in that year stands, in whatever form."""
    at = whole.find(year)
    while at >= 0:
        start = max(0, at - 24)
        for date in dates_in(whole[start : at + 12]):
            if f"{date.year:04d}-{date.month:02d}-{date.day:02d}" in births:
                yield Found(start + date.start, start + date.end, SensitiveKind.BIRTH)
        at = whole.find(year, at + 4)


def _kind_of_number(value: str, numbers: dict[str, SensitiveKind]) -> SensitiveKind | None:
    digits = digits_of(value)
    return next((numbers[each] for each in (digits, digits[-10:], digits[-9:]) if each in numbers), None)


def _literals(kind: SensitiveKind, value: str) -> Iterator[str]:
    """What of a value is told from anything else by itself."""
    match kind:
        case SensitiveKind.ADDRESS:
            for part in value.split(","):
                if len(part.strip()) > 6 and re.search(r"\d", part) and re.search(r"[^\W\d_]{3}", part):
                    yield part.strip()
        case SensitiveKind.EMAIL | SensitiveKind.IP | SensitiveKind.WALLET | SensitiveKind.KEY:
            yield value
        case SensitiveKind.POSTCODE if len(value) >= 5:
            yield value
        case SensitiveKind.IDENTITY | SensitiveKind.ACCOUNT if digits_of(value) != value:
            yield value
            yield canonical(kind, value)
        case SensitiveKind.PASSWORD if looks_password(value) or (len(value) >= 12 and " " not in value):
            yield value


def _occurrences(whole: str, literal: str) -> Iterator[int]:
    """Where it stands as a whole token: no part of a longer word or number, and no order's or amount's number."""
    number = literal.isdigit()
    start = whole.find(literal)
    while start >= 0:
        end = start + len(literal)
        before, after = whole[start - 1 : start], whole[end : end + 1]
        inside = (_is_word(before) and _is_word(literal[0])) or (_is_word(after) and _is_word(literal[-1]))
        if not (inside or (number and (before in _BEFORE_OTHERS or _AFTER_OTHERS.match(whole, end)))):
            yield start
        start = whole.find(literal, end)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


# --- replacing


def _replaced(
    texts: Sequence[str],
    starts: Sequence[int],
    whole: str,
    spans: Sequence[Found],
    names: dict[str, bool],
    placeholders: Placeholders,
) -> dict[str, tuple[str, Counter[SensitiveKind]]]:
    """The texts that change. Of what overlaps, the first counts, and of those the longest."""
    changed: dict[str, tuple[str, Counter[SensitiveKind]]] = {}
    parts: dict[int, list[tuple[int, int, str, SensitiveKind]]] = defaultdict(list)
    end = 0
    for found in sorted(spans, key=lambda each: (each.start, -each.end)):
        at = bisect_right(starts, found.start) - 1
        if found.start < end or found.end > starts[at] + len(texts[at]):
            continue
        end = found.end
        new = _in_field(found.kind, whole[found.start : found.end], names, placeholders)
        parts[at].append((found.start - starts[at], found.end - starts[at], new, found.kind))
    for at, found_in in parts.items():
        pieces, done = [], 0
        for start, stop, new, _ in found_in:
            pieces += [texts[at][done:start], new]
            done = stop
        changed[texts[at]] = ("".join([*pieces, texts[at][done:]]), Counter(kind for *_, kind in found_in))
    return changed


def _in_field(kind: SensitiveKind, value: str, names: dict[str, bool], placeholders: Placeholders) -> str:
    if kind not in _NAMES:
        return placeholders.of(kind, value)
    return WORD.sub(
        lambda word: placeholders.name(word[0], family=names[word[0].lower()]) if word[0].lower() in names else word[0],
        value,
    )


def _rewrite(text: _TextLeaf, rewriting: _Rewriting, counts: Counter[SensitiveKind]) -> str:
    if text.json is None:
        new, found = rewriting.texts.get(text.text, (text.text, Counter()))
        counts.update(found)
        return new
    if not rewriting.concerns(text):
        return text.text
    before = counts.total()

    def put(value: Any, kind: SensitiveKind | None) -> Any:
        plain = str(value)
        if kind is not None and (kind, plain) in rewriting.fields:
            new = rewriting.fields[kind, plain]
            counts[kind] += new != plain
            return new if isinstance(value, str) else int(new)
        if isinstance(value, str):
            new, found = rewriting.texts.get(value, (value, None))
            counts.update(found or ())
            return new
        number = rewriting.numbers.get(plain)
        if number is None:
            return value
        counts[number] += 1
        return int(rewriting.placeholders.of(number, plain))

    new = _visit(text.json, put, somebody=text.somebody)
    return _dump(new, text.text) if counts.total() > before else text.text
