"""The four work places: two tenants with two instances each."""

from looper.benchmarks.gym.workplace import Convention, Obstacle, Step, Tool, Workplace

# fmt: off
_FIRST = (
    "Ada", "Amir", "Anna", "Boris", "Carla", "Chen", "Diego", "Elena", "Emma", "Farid", "Greta", "Hana", "Hugo", "Ines",
    "Ivan", "Jana", "Jonas", "Karim", "Kofi", "Lara", "Leon", "Lina", "Luis", "Maria", "Marta", "Milan", "Mona",
    "Nadia", "Nina", "Omar", "Oscar", "Paula", "Pedro", "Rosa", "Samir", "Sara", "Tara", "Tomas", "Vera", "Yusuf",
)
_LAST = (
    "Adams", "Baker", "Becker", "Brown", "Carter", "Castro", "Cohen", "Costa", "Diaz", "Evans", "Fischer", "Fox",
    "Garcia", "Gray", "Haddad", "Hill", "Ito", "Jensen", "Khan", "King", "Kumar", "Lane", "Lopez", "Meyer", "Mills",
    "Moreno", "Nguyen", "Novak", "Okafor", "Park", "Patel", "Perez", "Petrov", "Reed", "Rossi", "Sato", "Shaw", "Silva",
    "Stone", "Weber",
)
# fmt: on

DISPATCH = Workplace(
    instance="harbor/dispatch",
    system="Harbor dispatch.",
    tools=(Tool("open", ("ref",)), Tool("book", ("ref", "dock", "lane")), Tool("unlock", ("ref", "reason"))),
    request="Ship order {order}, {goods}, {urgency}.",
    values={"order": range(1000, 10000)},
    conventions={
        "dock": Convention("goods", {"fish": "ice", "timber": "yard", "oil": "tank"}),
        "lane": Convention("urgency", {"tonight": "fast", "next week": "slow"}),
    },
    procedure=(
        Step("open", {"ref": "HD-{order}"}, reads=True),
        Step("book", {"ref": "HD-{order}", "dock": "{dock}", "lane": "{lane}"}),
    ),
    obstacles=(Obstacle("E_LOCKED", 1, Step("unlock", {"ref": "HD-{order}", "reason": "R7"})),),
)

BILLING = Workplace(
    instance="harbor/billing",
    system="Harbor billing.",
    tools=(
        Tool("find", ("name",)),
        Tool("credit", ("account", "amount", "code")),
        Tool("charge", ("account", "amount", "code")),
        Tool("reopen", ("account", "form")),
    ),
    request="{first} {last} was billed {amount} {mistake} for {service}.",
    values={"first": _FIRST, "last": _LAST, "amount": range(10, 100), "account": range(100, 1000)},
    conventions={
        "action": Convention("mistake", {"too much": "credit", "too little": "charge"}),
        "code": Convention("service", {"storage": "warehouse", "towing": "boat", "repairs": "workshop"}),
    },
    procedure=(
        Step("find", {"name": "{last}, {first}"}, answer="A{account}", reads=True),
        Step("{action}", {"account": "A{account}", "amount": "{amount}", "code": "{code}"}),
    ),
    obstacles=(Obstacle("E_CLOSED", 1, Step("reopen", {"account": "A{account}", "form": "F12"})),),
)

HELPDESK = Workplace(
    instance="orchard/helpdesk",
    system="Orchard help desk.",
    tools=(
        Tool("verify", ("user", "kind")),
        Tool("reset", ("user", "system")),
        Tool("grant", ("user", "system")),
        Tool("renew", ("user", "policy")),
    ),
    request="{first} {last}, {status}, {trouble} {tool}.",
    values={"first": _FIRST, "last": _LAST},
    conventions={
        "kind": Convention("status", {"employee": "staff", "guest": "visitor"}),
        "action": Convention("trouble", {"forgot the password for": "reset", "needs access to": "grant"}),
        "system": Convention("tool", {"mail": "post", "the wiki": "pages", "payroll": "salary"}),
    },
    procedure=(
        Step("verify", {"user": "{first}@{last}", "kind": "{kind}"}, reads=True),
        Step("{action}", {"user": "{first}@{last}", "system": "{system}"}),
    ),
    obstacles=(Obstacle("E_EXPIRED", 1, Step("renew", {"user": "{first}@{last}", "policy": "P30"})),),
)

OPS = Workplace(
    instance="orchard/ops",
    system="Orchard operations.",
    tools=(
        Tool("silence", ("host", "zone")),
        Tool("restart", ("host", "keep")),
        Tool("rollback", ("host", "keep")),
        Tool("elect", ("host", "token")),
    ),
    request="{service}-{number} in {place} {symptom}.",
    values={"number": range(10, 1000)},
    conventions={
        "zone": Convention("place", {"production": "prod", "testing": "test"}),
        "action": Convention("symptom", {"crashed": "restart", "has a bad release": "rollback"}),
        "keep": Convention("service", {"api": "requests", "mail": "letters", "search": "queries"}),
    },
    procedure=(
        Step("silence", {"host": "{service}-{number}", "zone": "{zone}"}),
        Step("{action}", {"host": "{service}-{number}", "keep": "{keep}"}),
    ),
    obstacles=(Obstacle("E_QUORUM", 1, Step("elect", {"host": "{service}-{number}", "token": "T5"})),),
)

WORKPLACES = {place.instance: place for place in (DISPATCH, BILLING, HELPDESK, OPS)}
"""By the name of the instance that works there."""
