"""Four hard workplaces: no episode of theirs can be solved by copying another one.

Each has five conventions of eight codes, and a task needs six to ten calls. Two facts are told by reads, and one only
by the user, who has to be asked. Special cases break the rules, and two of the tools are never right. The system
message says how a tool is called, so that the result of a base model says something about the base model.

The benchmarks use them through ``HARD_WORKPLACES``.
"""

from looper.gym.workplace import Convention, Obstacle, Question, SpecialCase, Tool, Workplace, WorkplaceStep
from looper.gym.workplaces import FIRST_NAMES, LAST_NAMES

CALL_FORMAT = (
    'To call a tool, answer only:\n<tool_call>\n{{"name": "tool", "arguments": {{"argument": "value"}}}}\n</tool_call>'
)
"""How a tool is called, in the Hermes form that Looper's own chat templates write and vLLM reads; a template, as system
messages are."""

# Words have few tokens, and a code goes with its word: an agent should learn the conventions, not spelling.
# fmt: off
FREIGHT = Workplace(
    instance="harbor/freight",
    system=f"Harbor freight. {CALL_FORMAT}",
    tools=(
        Tool("open", ("ref",)),
        Tool("cancel", ("ref",)),
        Tool("check", ("ref",)),
        Tool("book", ("ref", "dock", "lane")),
        Tool("mark", ("pallet", "label")),
        Tool("load", ("pallet", "gear")),
        Tool("send", ("ref", "route")),
        Tool("divide", ("ref", "dock")),
        Tool("unlock", ("ref", "reason")),
        Tool("dry", ("pallet", "hours")),
    ),
    request="Ship order {order}, {goods}, to {country}.",
    values={"order": range(1000, 10000), "pallet": range(10, 100)},
    conventions={
        "dock": Convention("goods", {
            "fish": "ice", "timber": "yard", "oil": "tank", "grain": "mill",
            "wine": "glass", "sheep": "farm", "coal": "fire", "paper": "print",
        }, (SpecialCase("client", "army", "base"),)),
        "lane": Convention("client", {
            "hospital": "health", "school": "bus", "bank": "gold", "hotel": "guest",
            "museum": "art", "army": "march", "church": "bell", "prison": "lock",
        }, (SpecialCase("goods", "oil", "pipe"),)),
        "gear": Convention("weather", {
            "storm": "rope", "fog": "lamp", "rain": "coat", "snow": "chain",
            "wind": "sail", "heat": "water", "frost": "salt", "smoke": "mask",
        }),
        "label": Convention("color", {
            "red": "blood", "blue": "sky", "green": "grass", "white": "milk",
            "black": "night", "yellow": "sun", "brown": "earth", "pink": "rose",
        }),
        "route": Convention("country", {
            "Egypt": "desert", "Norway": "north", "Japan": "island", "Brazil": "forest",
            "Greece": "temple", "Canada": "lake", "India": "river", "Chile": "mountain",
        }, (SpecialCase("weather", "storm", "rail"),)),
    },
    procedure=(
        WorkplaceStep("open", {"ref": "HD-{order}"}, answer="client {client}", reads=True),
        WorkplaceStep("check", {"ref": "HD-{order}"}, answer="weather {weather}, pallet {pallet}", reads=True),
        WorkplaceStep("book", {"ref": "HD-{order}", "dock": "{dock}", "lane": "{lane}"}, answer="booked"),
        WorkplaceStep("mark", {"pallet": "P{pallet}", "label": "{label}"}, answer="marked"),
        WorkplaceStep("load", {"pallet": "P{pallet}", "gear": "{gear}"}, answer="loaded"),
        WorkplaceStep("send", {"ref": "HD-{order}", "route": "{route}"}, answer="sent"),
    ),
    obstacles=(
        Obstacle("E_LOCKED", 2, WorkplaceStep("unlock", {"ref": "HD-{order}", "reason": "R7"}, answer="unlocked")),
        Obstacle("E_WET", 4, WorkplaceStep("dry", {"pallet": "P{pallet}", "hours": "T2"}, answer="dried")),
    ),
    distractors=("cancel", "divide"),
    questions=(Question("color", 3),),
)

CLAIMS = Workplace(
    instance="harbor/claims",
    system=f"Harbor claims. {CALL_FORMAT}",
    tools=(
        Tool("find", ("name",)),
        Tool("file", ("account", "desk", "team")),
        Tool("view", ("account",)),
        Tool("deny", ("account",)),
        Tool("hire", ("account", "trade")),
        Tool("notify", ("account", "channel")),
        Tool("pay", ("account", "amount", "rate")),
        Tool("close", ("account", "desk")),
        Tool("extend", ("account", "ticket")),
        Tool("thaw", ("account", "form")),
    ),
    request="{first} {last} reports {damage} in the {room}.",
    values={"first": FIRST_NAMES, "last": LAST_NAMES, "account": range(100, 1000), "loss": range(20, 100)},
    conventions={
        "desk": Convention("damage", {
            "fire": "smoke", "floods": "pump", "theft": "lock", "mold": "air",
            "rats": "trap", "hail": "roof", "noise": "ear", "rust": "paint",
        }, (SpecialCase("plan", "sailor", "ship"),)),
        "team": Convention("room", {
            "kitchen": "cook", "garden": "plant", "garage": "car", "office": "chair",
            "cellar": "wine", "bedroom": "sleep", "library": "book", "bathroom": "soap",
        }),
        "rate": Convention("plan", {
            "gold": "crown", "silver": "coin", "student": "school", "family": "child",
            "senior": "age", "farmer": "corn", "sailor": "boat", "soldier": "war",
        }, (SpecialCase("damage", "floods", "river"),)),
        "trade": Convention("material", {
            "glass": "window", "wood": "saw", "brick": "wall", "metal": "iron",
            "cloth": "thread", "leather": "shoe", "paper": "pen", "stone": "hammer",
        }, (SpecialCase("room", "library", "museum"),)),
        "channel": Convention("contact", {
            "phone": "voice", "letter": "stamp", "email": "screen", "visit": "door",
            "radio": "wave", "text": "thumb", "video": "camera", "fax": "print",
        }),
    },
    procedure=(
        WorkplaceStep("find", {"name": "{last}, {first}"}, answer="account {account}, plan {plan}", reads=True),
        WorkplaceStep("file", {"account": "A{account}", "desk": "{desk}", "team": "{team}"}, answer="filed"),
        WorkplaceStep("view", {"account": "A{account}"}, answer="material {material}, loss {loss}", reads=True),
        WorkplaceStep("hire", {"account": "A{account}", "trade": "{trade}"}, answer="hired"),
        WorkplaceStep("notify", {"account": "A{account}", "channel": "{channel}"}, answer="notified"),
        WorkplaceStep("pay", {"account": "A{account}", "amount": "{loss}", "rate": "{rate}"}, answer="paid"),
    ),
    obstacles=(
        Obstacle("E_LATE", 1, WorkplaceStep("extend", {"account": "A{account}", "ticket": "T4"}, answer="extended")),
        Obstacle("E_FROZEN", 5, WorkplaceStep("thaw", {"account": "A{account}", "form": "F12"}, answer="thawed")),
    ),
    distractors=("deny", "close"),
    questions=(Question("contact", 4),),
)

CLINIC = Workplace(
    instance="orchard/clinic",
    system=f"Orchard clinic. {CALL_FORMAT}",
    tools=(
        Tool("find", ("name",)),
        Tool("check", ("patient",)),
        Tool("move", ("bed", "ward")),
        Tool("admit", ("patient", "ward", "floor")),
        Tool("scan", ("patient", "test")),
        Tool("guard", ("bed", "sign")),
        Tool("feed", ("bed", "meal")),
        Tool("discharge", ("patient",)),
        Tool("insure", ("patient", "code")),
        Tool("calm", ("bed", "mode")),
    ),
    request="Admit {first} {last}, {symptom} after {event}.",
    values={"first": FIRST_NAMES, "last": LAST_NAMES, "patient": range(100, 1000), "bed": range(10, 100)},
    conventions={
        "ward": Convention("symptom", {
            "cough": "lung", "fever": "heat", "burns": "skin", "headache": "brain",
            "bleeding": "blood", "pain": "nerve", "swelling": "ice", "fatigue": "sleep",
        }, (SpecialCase("event", "war", "tent"),)),
        "test": Convention("event", {
            "travel": "map", "sport": "muscle", "surgery": "knife", "birth": "baby",
            "dinner": "food", "work": "stress", "swimming": "water", "war": "bullet",
        }),
        "floor": Convention("job", {
            "pilot": "sky", "farmer": "ground", "teacher": "class", "lawyer": "court",
            "actor": "stage", "driver": "road", "sailor": "sea", "miner": "cave",
        }, (SpecialCase("symptom", "fever", "roof"),)),
        "sign": Convention("allergy", {
            "milk": "cow", "nuts": "tree", "dust": "air", "eggs": "bird",
            "wool": "sheep", "fur": "cat", "honey": "bee", "pollen": "flower",
        }),
        "meal": Convention("diet", {
            "soft": "soup", "sweet": "cake", "hot": "pepper", "dry": "bread",
            "light": "salad", "rich": "meat", "raw": "fruit", "cold": "cream",
        }, (SpecialCase("allergy", "milk", "tea"),)),
    },
    procedure=(
        WorkplaceStep("find", {"name": "{last}, {first}"}, answer="patient {patient}, job {job}", reads=True),
        WorkplaceStep("admit", {"patient": "N{patient}", "ward": "{ward}", "floor": "{floor}"}, answer="admitted"),
        WorkplaceStep("check", {"patient": "N{patient}"}, answer="allergy {allergy}, bed {bed}", reads=True),
        WorkplaceStep("guard", {"bed": "B{bed}", "sign": "{sign}"}, answer="guarded"),
        WorkplaceStep("feed", {"bed": "B{bed}", "meal": "{meal}"}, answer="fed"),
        WorkplaceStep("scan", {"patient": "N{patient}", "test": "{test}"}, answer="scanned"),
    ),
    obstacles=(
        Obstacle("E_INSURANCE", 1, WorkplaceStep("insure", {"patient": "N{patient}", "code": "C4"}, answer="insured")),
        Obstacle("E_ALARM", 4, WorkplaceStep("calm", {"bed": "B{bed}", "mode": "M2"}, answer="calmed")),
    ),
    distractors=("move", "discharge"),
    questions=(Question("diet", 4),),
)

NETWORK = Workplace(
    instance="orchard/network",
    system=f"Orchard network. {CALL_FORMAT}",
    tools=(
        Tool("show", ("host",)),
        Tool("restart", ("host",)),
        Tool("status", ("host",)),
        Tool("plan", ("host", "slot")),
        Tool("pause", ("host", "keep")),
        Tool("repair", ("port", "part")),
        Tool("move", ("host", "zone", "key")),
        Tool("erase", ("host", "keep")),
        Tool("elect", ("host", "token")),
        Tool("free", ("port", "code")),
    ),
    request="Move {service}-{number} to {city}.",
    values={"number": range(100, 1000), "port": range(10, 100)},
    conventions={
        "keep": Convention("service", {
            "mail": "letters", "search": "queries", "chat": "words", "video": "frames",
            "shop": "orders", "games": "scores", "music": "songs", "maps": "roads",
        }),
        "zone": Convention("city", {
            "Paris": "tower", "London": "fog", "Berlin": "wall", "Rome": "church",
            "Tokyo": "fish", "Cairo": "sand", "Moscow": "snow", "Boston": "tea",
        }, (SpecialCase("owner", "security", "vault"),)),
        "key": Convention("owner", {
            "finance": "money", "sales": "price", "legal": "law", "design": "color",
            "support": "help", "research": "lab", "security": "guard", "training": "class",
        }, (SpecialCase("service", "mail", "post"),)),
        "part": Convention("alert", {
            "heat": "fan", "leak": "pipe", "virus": "shield", "fire": "water",
            "theft": "lock", "dust": "brush", "dark": "lamp", "noise": "rubber",
        }),
        "slot": Convention("hour", {
            "dawn": "early", "morning": "coffee", "noon": "lunch", "afternoon": "sun",
            "dusk": "late", "evening": "dinner", "night": "star", "midnight": "moon",
        }, (SpecialCase("alert", "virus", "now"),)),
    },
    procedure=(
        WorkplaceStep("show", {"host": "{service}-{number}"}, answer="owner {owner}", reads=True),
        WorkplaceStep("status", {"host": "{service}-{number}"}, answer="alert {alert}, port {port}", reads=True),
        WorkplaceStep("plan", {"host": "{service}-{number}", "slot": "{slot}"}, answer="planned"),
        WorkplaceStep("pause", {"host": "{service}-{number}", "keep": "{keep}"}, answer="paused"),
        WorkplaceStep("repair", {"port": "P{port}", "part": "{part}"}, answer="repaired"),
        WorkplaceStep("move", {"host": "{service}-{number}", "zone": "{zone}", "key": "{key}"}, answer="moved"),
    ),
    obstacles=(
        Obstacle("E_STUCK", 4, WorkplaceStep("free", {"port": "P{port}", "code": "K3"}, answer="freed")),
        Obstacle(
            "E_QUORUM", 5, WorkplaceStep("elect", {"host": "{service}-{number}", "token": "T5"}, answer="elected")
        ),
    ),
    distractors=("restart", "erase"),
    questions=(Question("hour", 2),),
)
# fmt: on

HARD_WORKPLACES = {workplace.instance: workplace for workplace in (FREIGHT, CLAIMS, CLINIC, NETWORK)}
"""All hard workplaces, by the name of the instance that works there."""
