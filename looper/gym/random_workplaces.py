"""Random workplaces: other tools, other rules and other words for each seed, in the manner of the gym's four.

A start for new instances is learned on them (``looper starts learn``), so nothing in them may give away the workplaces
that skills are judged on: their tools and their codes are other ones, which a test compares.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from looper.gym.workplace import Convention, Obstacle, Tool, Workplace, WorkplaceStep
from looper.gym.workplaces import FIRST_NAMES, LAST_NAMES

MAX_CONVENTIONS = 3
"""Most conventions of a workplace."""
MAX_CODES = 4
"""Most codes of a convention."""

_READ_PROBABILITY = 0.6
_TOLD_ID_PROBABILITY = 0.4
_CHOSEN_TOOL_PROBABILITY = 0.4
_SECOND_WRITE_PROBABILITY = 0.3
_OBSTACLE_PROBABILITY = 0.7

# Most tokenizers have one token for each of these: an agent should learn the rules, not spelling.
# fmt: off
_HOUSES = (
    "Valley", "Summit", "Castle", "Bridge", "River", "Forest", "Garden", "Market", "Station", "Island", "Temple",
    "Mountain", "Village", "Palace", "Meadow", "Canyon",
)
_DEPARTMENTS = (
    "archive", "kitchen", "gallery", "studio", "registry", "workshop", "laboratory", "theater", "stables", "printing",
    "transport", "planning", "housing", "training", "security", "research", "events", "supplies",
)
_READS = ("look", "fetch", "inspect", "query", "locate", "review", "visit", "browse", "lookup", "inquire")
_WRITES = (
    "assign", "place", "deliver", "arrange", "apply", "remove", "transfer", "reserve", "submit", "publish", "install",
    "enter", "collect", "schedule", "record", "carry", "store", "issue", "attach", "adjust", "replace", "combine",
)
_REMEDIES = ("release", "refresh", "rescue", "restore", "confirm", "clear", "approve", "reload", "sign", "wake")
_REMEDY_PARAMETERS = ("proof", "stamp", "badge", "witness", "letter", "mark")
_PARAMETERS = (
    "shelf", "level", "queue", "mode", "grade", "track", "group", "tier", "slot", "sector", "format", "scale", "side",
    "phase", "branch", "series", "style", "corner", "layer", "section",
)
_ID_PARAMETERS = ("id", "item", "entry", "record", "number", "case", "object", "subject")
_ERRORS = ("E_CLOSED", "E_BUSY", "E_PENDING", "E_STALE", "E_MISSING", "E_LIMIT", "E_PAUSED", "E_DENIED")
_FACTS: Mapping[str, tuple[str, ...]] = {
    "animal": ("horse", "rabbit", "tiger", "eagle", "whale", "camel", "spider", "dragon"),
    "city": ("Paris", "London", "Rome", "Berlin", "Cairo", "Tokyo", "Madrid", "Vienna"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "size": ("tiny", "medium", "large", "huge", "narrow", "giant"),
    "sport": ("tennis", "football", "chess", "golf", "hockey", "boxing", "sailing"),
    "plant": ("rose", "oak", "grass", "moss", "lemon", "potato", "onion", "apple"),
    "tempo": ("at once", "this week", "some day", "before noon", "at midnight"),
    "state": ("broken", "clean", "empty", "open", "frozen", "damaged", "ready"),
    "guest": ("doctor", "teacher", "lawyer", "farmer", "pilot", "nurse", "judge"),
    "instrument": ("piano", "guitar", "violin", "drum", "flute", "trumpet"),
    "vehicle": ("train", "bicycle", "truck", "plane", "taxi", "tractor"),
    "shape": ("circle", "square", "triangle", "cube", "sphere", "cone"),
}
_CODES = (
    "alpha", "beta", "gamma", "delta", "omega", "sigma", "zero", "double", "single", "triple", "prime", "basic",
    "extra", "super", "ultra", "micro", "macro", "inner", "outer", "upper", "lower", "central", "local", "global",
    "remote", "direct", "manual", "normal", "special", "common", "rare", "public", "private", "secret", "royal",
    "native", "foreign", "solid", "liquid", "sharp", "smooth", "silent", "loud", "quick", "steady", "brave", "gentle",
    "proud", "simple", "complex", "modern", "ancient", "fresh", "pure", "mixed", "joint", "spare",
    "golden", "silver", "bronze", "crystal", "marble", "velvet", "cotton", "copper", "amber", "ruby", "pearl", "ivory",
    "coral", "lunar", "solar", "polar", "tidal", "coastal", "urban", "rural", "vertical", "horizontal", "diagonal",
)
_PLEAS = ("", "Please ", "Now ", "Next: ")
_SEPARATORS = (", ", "; ", " - ", ", ")
# fmt: on


def draw_workplace(seed: int) -> Workplace:
    """Draw a workplace.

    Args:
        seed: The same seed always gives the same workplace.

    Returns:
        A workplace with one to ``MAX_CONVENTIONS`` conventions of up to ``MAX_CODES`` codes, and one to three calls.
    """
    rng = Random(f"{seed} random workplace")
    house, department = rng.choice(_HOUSES), rng.choice(_DEPARTMENTS)
    record, values = _draw_record(rng)
    key = rng.choice(_ID_PARAMETERS)
    codes = iter(rng.sample(_CODES, len(_CODES)))
    facts = iter(rng.sample(list(_FACTS), len(_FACTS)))
    writes = iter(rng.sample(_WRITES, len(_WRITES)))
    names = iter(rng.sample(_PARAMETERS, len(_PARAMETERS)))
    conventions = {
        next(names): _draw_convention(next(facts), codes, rng) for _ in range(rng.randint(1, MAX_CONVENTIONS))
    }
    parameters = list(conventions)
    if rng.random() < _CHOSEN_TOOL_PROBABILITY:
        fact = next(facts)
        words = rng.sample(_FACTS[fact], 2)
        conventions["action"] = Convention(fact, {word: next(writes) for word in words})
    split = rng.randint(1, len(parameters)) if rng.random() < _SECOND_WRITE_PROBABILITY else len(parameters)
    tools: list[Tool] = []
    procedure: list[WorkplaceStep] = []
    subject = record
    if rng.random() < _READ_PROBABILITY:
        read = Tool(rng.choice(_READS), (rng.choice(_ID_PARAMETERS),))
        told = rng.random() < _TOLD_ID_PROBABILITY
        tools.append(read)
        procedure.append(
            WorkplaceStep(read.name, {read.parameters[0]: record}, "N{told}" if told else "found", reads=True)
        )
        if told:
            values["told"] = range(100, 1000)
            subject = "N{told}"
    for number, part in enumerate(filter(None, (parameters[:split], parameters[split:]))):
        arguments = {key: subject, **{name: f"{{{name}}}" for name in part}}
        is_chosen = number == 0 and "action" in conventions
        name = "{action}" if is_chosen else next(writes)
        tools += [Tool(each, tuple(arguments)) for each in (conventions["action"].codes.values() if is_chosen else [name])]
        procedure.append(WorkplaceStep(name, arguments, rng.choice(("done", "ok", "saved", "accepted"))))
    obstacles: tuple[Obstacle, ...] = ()
    if rng.random() < _OBSTACLE_PROBABILITY:
        remedy = Tool(rng.choice(_REMEDIES), (key, rng.choice(_REMEDY_PARAMETERS)))
        tools.append(remedy)
        code = f"{rng.choice('BCDGHJKLMNQSVWXZ')}{rng.randint(1, 99)}"
        step = WorkplaceStep(remedy.name, dict(zip(remedy.parameters, (subject, code), strict=True)), "solved")
        obstacles = (Obstacle(rng.choice(_ERRORS), len(procedure) - 1, step),)
    rng.shuffle(tools)
    return Workplace(
        instance=f"{house.lower()}/{department}-{seed}",
        system=f"{house} {department}.",
        tools=tuple(tools),
        request=_draw_request([convention.fact for convention in conventions.values()], record, rng),
        values=values,
        conventions=conventions,
        procedure=tuple(procedure),
        obstacles=obstacles,
    )


def _draw_record(rng: Random) -> tuple[str, dict[str, Sequence[object]]]:
    """Return how a record is called, as a template, and the values of its facts."""
    person: dict[str, Sequence[object]] = {"first": FIRST_NAMES, "last": LAST_NAMES}
    prefix = "".join(rng.sample("ABCDEFGHJKLMNPQRSTVWXYZ", 2))
    return rng.choice(
        [
            (f"{prefix}-{{order}}", {"order": range(1000, 10000)}),
            (f"{prefix}{{order}}", {"order": range(100, 1000)}),
            ("{last}, {first}", person),
            ("{first}.{last}", person),
            ("{first}@{last}", person),
            (f"{prefix.lower()}-{{order}}", {"order": range(10, 1000)}),
        ]
    )


def _draw_convention(fact: str, codes: Iterator[str], rng: Random) -> Convention:
    words = rng.sample(_FACTS[fact], rng.randint(2, MAX_CODES))
    return Convention(fact, {word: next(codes) for word in words})


def _draw_request(facts: Sequence[str], record: str, rng: Random) -> str:
    said = record if "{order}" in record and rng.random() < 0.5 else _said(record)
    parts = [f"{{{fact}}}" for fact in facts]
    rng.shuffle(parts)
    parts.insert(rng.randrange(len(parts) + 1), said)
    return f"{rng.choice(_PLEAS)}{rng.choice(_SEPARATORS).join(parts)}."


def _said(record: str) -> str:
    """Return how a request names a record: by its number, or by a person's name."""
    return "{order}" if "{order}" in record else "{first} {last}"
