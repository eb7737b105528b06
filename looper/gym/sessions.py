"""Workplaces that change over time: the same workplace in five sessions, each with new rules.

A session is a workplace with the rules of one month. The system message names the month of a task ("Harbor dispatch,
May."), and a task keeps the rules of its month: an order of January is shipped under the rules of January, no matter
when an agent works on it. A later session can therefore contradict an earlier one, and the prompt alone still
determines the one right answer to each task. An agent that applies the newest rules to all tasks has forgotten.

Sessions are short: most tasks need one call of about 90 tokens, and the codes are related to the words of the request.
The forgetting benchmark trains on one session after another.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from looper.gym.workplace import Convention, Tool, Workplace, WorkplaceStep
from looper.gym.workplaces import DISPATCH, HELPDESK
from looper.platform.domain.errors import InvalidInput

TASKS_PER_SESSION = 42
"""Tasks of each session, of which 9 to 17 are held out."""
HOLDOUT_SHARE = 0.28
"""Share of a session's tasks that is never trained on; the hash of a task's id decides, as it always does."""


def build_sessions(workplace: Workplace) -> list[Workplace]:
    """Return the five sessions of a workplace.

    Args:
        workplace: ``DISPATCH`` or ``HELPDESK``.

    Returns:
        The sessions, in the order of their months.

    Raises:
        InvalidInput: The workplace has no sessions.
    """
    if workplace.instance not in _SESSION_BUILDERS:
        known = ", ".join(_SESSION_BUILDERS)
        raise InvalidInput(f"workplace {workplace.instance!r} has no sessions: choose one of {known}")
    return _SESSION_BUILDERS[workplace.instance](workplace)


def _build_dispatch_sessions(place: Workplace) -> list[Workplace]:
    open_, book = place.procedure
    tools = {tool.name: tool for tool in place.tools}
    january = _changed_since(
        "January",
        place,
        tools=(tools["book"],),
        values={"order": range(100, 1000)},
        procedure=(book,),
        obstacles=(),
    )
    claim = Tool("claim", ("ref", "desk"))
    march = _changed_since(  # a new kind of task, with its own tool
        "March",
        january,
        tools=(claim,),
        request="Return order {order}, {fault}.",
        conventions={"desk": Convention("fault", {"broken": "glass", "late": "clock", "lost": "map"})},
        procedure=(WorkplaceStep("claim", {"ref": "HD-{order}", "desk": "{desk}"}, answer="claimed"),),
    )
    docks = Convention("goods", {"fish": "market", "timber": "mill", "oil": "pipe"})
    may = _changed_since(
        "May", january, conventions={**january.conventions, "dock": docks}
    )  # contradicts January's docks
    july = _changed_since(
        "July", may, tools=(*may.tools, tools["open"]), procedure=(open_, book)
    )  # the order has to be opened first
    desks = Convention("fault", {"broken": "repair", "late": "date", "lost": "track"})
    september = _changed_since("September", march, conventions={"desk": desks})  # contradicts March's desks
    return [january, march, may, july, september]


def _build_helpdesk_sessions(place: Workplace) -> list[Workplace]:
    verify, act = place.procedure
    tools = {tool.name: tool for tool in place.tools}
    january = _changed_since(
        "January",
        place,
        tools=(tools["reset"], tools["grant"]),
        request="{first} {last} {trouble} {tool}.",
        conventions={name: place.conventions[name] for name in ("action", "system")},
        procedure=(act,),
        obstacles=(),
    )
    lock = Tool("lock", ("user", "item"))
    march = _changed_since(  # a new kind of task, with its own tool
        "March",
        january,
        tools=(lock,),
        request="{first} {last} lost the {device}.",
        conventions={"item": Convention("device", {"phone": "call", "laptop": "screen", "badge": "door"})},
        procedure=(WorkplaceStep("lock", {"user": "{first}@{last}", "item": "{item}"}, answer="locked"),),
    )
    systems = Convention("tool", {"mail": "letters", "the wiki": "notes", "payroll": "money"})
    may = _changed_since(
        "May", january, conventions={**january.conventions, "system": systems}
    )  # contradicts January's names
    july = _changed_since(  # the user has to be verified first
        "July",
        may,
        tools=(*may.tools, tools["verify"]),
        request="{first} {last}, {status}, {trouble} {tool}.",
        conventions={"kind": place.conventions["kind"], **may.conventions},
        procedure=(verify, act),
    )
    september = _changed_since(  # contradicts March: another tool for the same loss
        "September",
        march,
        tools=(lock, Tool("wipe", ("user", "item"))),
        conventions={"item": Convention("device", {"phone": "number", "laptop": "files", "badge": "chip"})},
        procedure=(WorkplaceStep("wipe", {"user": "{first}@{last}", "item": "{item}"}, answer="wiped"),),
    )
    return [january, march, may, july, september]


_SESSION_BUILDERS: dict[str, Callable[[Workplace], list[Workplace]]] = {
    DISPATCH.instance: _build_dispatch_sessions,
    HELPDESK.instance: _build_helpdesk_sessions,
}


def _changed_since(month: str, place: Workplace, **changes: Any) -> Workplace:
    """Return a workplace with the rules that began in a month."""
    house = place.system.removesuffix(".").partition(",")[0]
    return replace(place, since=month.lower(), system=f"{house}, {month}.", **changes)
