"""The four workplaces of the gym: two tenants with two instances each.

The demo, the benchmarks and ``examples/`` use them through ``WORKPLACES``.
"""

from looper.gym.workplace import Convention, Obstacle, Tool, Workplace, WorkplaceStep

# Most tokenizers have one token for each of these names: an agent should learn the conventions, not spelling.
# fmt: off
FIRST_NAMES = (
    "Adam", "Alice", "Andrew", "Anna", "Ben", "Bob", "Carl", "Chris", "Daniel", "David", "Emily", "Frank", "George",
    "Henry", "Jack", "Jane", "Jean", "John", "Kim", "Louis", "Maria", "Mark", "Mary", "Paul", "Peter", "Rose", "Sam",
    "Sarah", "Tom", "Victor",
)
LAST_NAMES = (
    "Adams", "Anderson", "Bell", "Brown", "Clark", "Cook", "Davis", "Green", "Hall", "Hill", "Jackson", "Johnson",
    "Jones", "King", "Lewis", "Long", "Miller", "Park", "Price", "Smith", "Snow", "Stone", "Taylor", "White", "Wood",
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
        WorkplaceStep("open", {"ref": "HD-{order}"}, answer="opened", reads=True),
        WorkplaceStep("book", {"ref": "HD-{order}", "dock": "{dock}", "lane": "{lane}"}, answer="booked"),
    ),
    obstacles=(
        Obstacle("E_LOCKED", 1, WorkplaceStep("unlock", {"ref": "HD-{order}", "reason": "R7"}, answer="unlocked")),
    ),
)

BILLING = Workplace(
    instance="harbor/billing",
    system="Harbor billing.",
    tools=(
        Tool("find", ("name",)),
        Tool("refund", ("account", "amount", "code")),
        Tool("charge", ("account", "amount", "code")),
        Tool("thaw", ("account", "form")),
    ),
    request="{demand} {first} {last} {amount} for {service}.",
    values={"first": FIRST_NAMES, "last": LAST_NAMES, "amount": range(10, 100), "account": range(100, 1000)},
    conventions={
        "action": Convention("demand", {"Refund": "refund", "Charge": "charge"}),
        "code": Convention("service", {"storage": "warehouse", "towing": "boat", "repairs": "workshop"}),
    },
    procedure=(
        WorkplaceStep("find", {"name": "{last}, {first}"}, answer="A{account}", reads=True),
        WorkplaceStep("{action}", {"account": "A{account}", "amount": "{amount}", "code": "{code}"}, answer="posted"),
    ),
    obstacles=(
        Obstacle("E_FROZEN", 1, WorkplaceStep("thaw", {"account": "A{account}", "form": "F12"}, answer="thawed")),
    ),
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
    values={"first": FIRST_NAMES, "last": LAST_NAMES},
    conventions={
        "kind": Convention("status", {"employee": "staff", "guest": "visitor"}),
        "action": Convention("trouble", {"forgot the password for": "reset", "needs access to": "grant"}),
        "system": Convention("tool", {"mail": "post", "the wiki": "pages", "payroll": "salary"}),
    },
    procedure=(
        WorkplaceStep("verify", {"user": "{first}@{last}", "kind": "{kind}"}, answer="verified", reads=True),
        WorkplaceStep("{action}", {"user": "{first}@{last}", "system": "{system}"}, answer="saved"),
    ),
    obstacles=(
        Obstacle("E_EXPIRED", 1, WorkplaceStep("renew", {"user": "{first}@{last}", "policy": "P30"}, answer="renewed")),
    ),
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
    request="{demand} {service}-{number} in {place}.",
    values={"number": range(10, 1000)},
    conventions={
        "zone": Convention("place", {"production": "prod", "testing": "test"}),
        "action": Convention("demand", {"Restart": "restart", "Roll back": "rollback"}),
        "keep": Convention("service", {"api": "requests", "mail": "letters", "search": "queries"}),
    },
    procedure=(
        WorkplaceStep("silence", {"host": "{service}-{number}", "zone": "{zone}"}, answer="silenced"),
        WorkplaceStep("{action}", {"host": "{service}-{number}", "keep": "{keep}"}, answer="healthy"),
    ),
    obstacles=(
        Obstacle(
            "E_QUORUM", 1, WorkplaceStep("elect", {"host": "{service}-{number}", "token": "T5"}, answer="elected")
        ),
    ),
)

WORKPLACES = {workplace.instance: workplace for workplace in (DISPATCH, BILLING, HELPDESK, OPS)}
"""All workplaces, by the name of the instance that works there."""
