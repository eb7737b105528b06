"""Streams: one workplace over 10, 50 or 200 sessions, with rules that are generated from a seed.

A session is one month. It brings either a new kind of task, with a tool of its own, or new rules for a kind that there
was before: other codes for the same words, or another tool. So most sessions contradict an earlier one on the same
request. A task is always done under the rules of its own month, and its prompt tells the month in one of three ways:
by name in the system message, by a date in the system message, or by a date in the request. The date alone then decides
which code is right.

Tasks need one call of about 90 tokens, so that dozens of sessions can be trained on a CPU. The forgetting benchmark
uses streams with ``--sessions``. ``sessions`` has the five sessions that were written by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from string import Formatter

from looper.gym.workplace import Convention, Tool, Workplace, WorkplaceStep
from looper.platform.domain.errors import InvalidInput

TASKS_PER_SESSION = 18
"""Tasks of each session, of which about five are held out. Every word of the rules is in about six of them."""
HOLDOUT_SHARE = 0.28
"""Share of a session's tasks that is never trained on; the hash of a task's id decides, as it always does."""
MAX_SESSIONS = 200
"""Most sessions of a stream."""

_FIRST_YEAR = 2031
_NEW_KIND_PROBABILITY = 0.5
_NEW_TOOL_PROBABILITY = 0.25
_WORDS_PER_KIND = 3

# Most tokenizers have one token for each of these: an agent should learn the rules, not spelling.
# fmt: off
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)
_VERBS = (
    "Take", "Return", "Store", "Check", "Clean", "Move", "Pack", "Use", "Sort", "Test", "Mark", "Count", "Hold",
    "Open", "Send", "Cut", "Read", "Load", "Print", "Scan", "Build", "Call", "Plan", "Get",
)
_TOOLS = (
    "book", "claim", "set", "log", "post", "file", "route", "order", "report", "assign", "place", "request", "record",
    "create", "update", "start", "process", "issue", "submit", "enter", "add", "put", "save", "write", "tag", "note",
    "list", "match", "link", "register", "handle", "commit", "select", "push", "lock",
)
_PARAMETERS = ("code", "line", "area", "type", "unit", "level", "group", "class", "mode", "key", "field", "part")
_WORDS = (
    "fish", "oil", "wood", "steel", "paper", "glass", "milk", "wine", "salt", "sugar", "rice", "coal", "sand", "stone",
    "cotton", "wool", "coffee", "tea", "fruit", "meat", "corn", "wheat", "gold", "copper",
)
_CODES = (
    "red", "blue", "green", "black", "white", "north", "south", "east", "west", "left", "right", "high", "low", "hot",
    "cold", "fast", "slow", "light", "dark", "big", "small", "long", "short", "old", "new", "hard", "soft", "open",
    "close", "top", "bottom", "inside", "outside", "first", "last", "main", "side", "front", "back", "center", "round",
    "flat", "wide", "deep", "full", "empty", "dry", "wet", "rock", "river", "lake", "hill", "field", "tree", "star",
    "moon", "sun", "rain", "snow", "wind", "fire", "ice", "water", "earth",
)
# fmt: on


class DateForm(Enum):
    """How the prompt of a task tells its month."""

    NAME_IN_SYSTEM = "name in the system message"
    DATE_IN_SYSTEM = "date in the system message"
    DATE_IN_REQUEST = "date in the request"


@dataclass(frozen=True)
class _Kind:
    """One kind of task, with the rules that it has at the moment."""

    verb: str
    tools: tuple[str, ...]
    """The tool that is in use, and before it the one that it replaced."""
    parameter: str
    codes: Mapping[str, str]


def build_stream(place: Workplace, count: int, seed: int) -> list[Workplace]:
    """Generate the sessions of a stream.

    Args:
        place: The workplace whose name and records the sessions take.
        count: Number of sessions.
        seed: Seed of the rules. A longer stream of one seed begins with the shorter ones.

    Returns:
        The sessions in the order of their months.

    Raises:
        InvalidInput: ``count`` is out of range, or the requests of ``place`` do not name its records.
    """
    if not 2 <= count <= MAX_SESSIONS:
        raise InvalidInput(f"a stream cannot have {count} sessions: choose from 2 to {MAX_SESSIONS}")
    if not _record_facts(place) <= place.values.keys():
        raise InvalidInput(f"workplace {place.instance!r} has no streams: its records are not named in its requests")
    rng = Random(f"{seed} {place.instance} stream")
    verbs, tools = list(_VERBS), list(_TOOLS)
    rng.shuffle(verbs)
    rng.shuffle(tools)
    kinds: list[_Kind] = []
    months = []
    for number in range(count):
        if not kinds or (verbs and tools and rng.random() < _NEW_KIND_PROBABILITY):
            words = rng.sample(_WORDS, _WORDS_PER_KIND)
            kinds.append(_Kind(verbs.pop(), (tools.pop(),), rng.choice(_PARAMETERS), dict.fromkeys(words, "")))
            kinds[-1] = _with_other_codes(kinds[-1], rng)
            changed = len(kinds) - 1
        else:
            changed = rng.randrange(len(kinds))
            before = kinds[changed]
            if tools and rng.random() < _NEW_TOOL_PROBABILITY:
                kinds[changed] = replace(before, tools=(before.tools[-1], tools.pop()))
            else:
                kinds[changed] = _with_other_codes(before, rng)
        months.append(_build_month(place, number, kinds[changed], rng.choice(list(DateForm))))
    return months


def _with_other_codes(kind: _Kind, rng: Random) -> _Kind:
    """Give each word a code that no word of this kind had before the change."""
    codes = rng.sample([code for code in _CODES if code not in kind.codes.values()], len(kind.codes))
    return replace(kind, codes=dict(zip(kind.codes, codes, strict=True)))


def _build_month(place: Workplace, number: int, kind: _Kind, form: DateForm) -> Workplace:
    """Return the workplace in one month, in which it has tasks of one kind."""
    year, month = _FIRST_YEAR + number // 12, number % 12
    house = place.system.removesuffix(".").partition(",")[0]
    since = f"{year}-{month + 1:02d}"
    date = f"{since}-{{day}}"
    system = {
        DateForm.NAME_IN_SYSTEM: f"{house}, {_MONTHS[month]} {year}.",
        DateForm.DATE_IN_SYSTEM: f"{house}, {date}.",
        DateForm.DATE_IN_REQUEST: f"{house}.",
    }[form]
    record = place.procedure[-1].arguments
    key = next(iter(record))
    said = " ".join(f"{{{name}}}" for name in place.values if name in _record_facts(place))
    days = {} if form is DateForm.NAME_IN_SYSTEM else {"day": [f"{day:02d}" for day in range(1, 29)]}
    return replace(
        place,
        system=system,
        tools=tuple(Tool(tool, (key, kind.parameter)) for tool in kind.tools),
        request=f"{kind.verb} {said}, {{goods}}{f', {date}' if form is DateForm.DATE_IN_REQUEST else ''}.",
        values={**{name: place.values[name] for name in place.values if name in _record_facts(place)}, **days},
        conventions={kind.parameter: Convention("goods", kind.codes)},
        procedure=(
            WorkplaceStep(
                kind.tools[-1], {key: record[key], kind.parameter: f"{{{kind.parameter}}}"}, place.procedure[-1].answer
            ),
        ),
        obstacles=(),
        since=since,
    )


def _record_facts(place: Workplace) -> set[str]:
    """Return the facts in the name of a record, which the first argument of every call is."""
    template = next(iter(place.procedure[-1].arguments.values()))
    return {name for _, name, _, _ in Formatter().parse(template) if name}
