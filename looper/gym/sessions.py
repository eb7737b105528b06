"""Instances that live on: the same work place in five sessions, each with ways that are new.

A session is a work place whose rules came in one month. What is given to the agent names the month that a task belongs
to ("Harbor dispatch, May."), and a task stays under the rules of its month: an order placed in January is shipped as
January shipped, whenever it is asked about. So a later session may contradict an older one, and the tasks of both keep
one right answer that can be told from the prompt alone; an agent that answers them all in the newest way has forgotten.

Sessions are kept short, most of them one call of about 90 tokens, and their codes go with the words of the request.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from looper.gym.workplace import Convention, Tool, Workplace, WorkplaceStep
from looper.gym.workplaces import DISPATCH, HELPDESK
from looper.platform.domain.errors import InvalidInput

TASKS = 42
"""Of each session; the share ``HOLDOUT`` of them, by the hash of their ids as always, is never trained on: 9 to 17."""
HOLDOUT = 0.28


def sessions(workplace: Workplace) -> list[Workplace]:
    """The five sessions of ``workplace``, in order. Raises InvalidInput if it stays as it is."""
    if workplace.instance not in _LIVES:
        raise InvalidInput(f"work place {workplace.instance!r} has no sessions: choose one of {', '.join(_LIVES)}")
    return _LIVES[workplace.instance](workplace)


def _dispatch(place: Workplace) -> list[Workplace]:
    open_, book = place.procedure
    tools = {tool.name: tool for tool in place.tools}
    january = _since(
        "January",
        place,
        tools=(tools["book"],),
        values={"order": range(100, 1000)},
        procedure=(book,),
        obstacles=(),
    )
    claim = Tool("claim", ("ref", "desk"))
    march = _since(  # a new kind of work, with a tool of its own
        "March",
        january,
        tools=(claim,),
        request="Return order {order}, {fault}.",
        conventions={"desk": Convention("fault", {"broken": "glass", "late": "clock", "lost": "map"})},
        procedure=(WorkplaceStep("claim", {"ref": "HD-{order}", "desk": "{desk}"}, answer="claimed"),),
    )
    docks = Convention("goods", {"fish": "market", "timber": "mill", "oil": "pipe"})
    may = _since("May", january, conventions={**january.conventions, "dock": docks})  # January's docks are others
    july = _since("July", may, tools=(*may.tools, tools["open"]), procedure=(open_, book))  # no more without opening
    desks = Convention("fault", {"broken": "repair", "late": "date", "lost": "track"})
    september = _since("September", march, conventions={"desk": desks})  # March's desks are others
    return [january, march, may, july, september]


def _helpdesk(place: Workplace) -> list[Workplace]:
    verify, act = place.procedure
    tools = {tool.name: tool for tool in place.tools}
    january = _since(
        "January",
        place,
        tools=(tools["reset"], tools["grant"]),
        request="{first} {last} {trouble} {tool}.",
        conventions={name: place.conventions[name] for name in ("action", "system")},
        procedure=(act,),
        obstacles=(),
    )
    lock = Tool("lock", ("user", "item"))
    march = _since(  # a new kind of work, with a tool of its own
        "March",
        january,
        tools=(lock,),
        request="{first} {last} lost the {device}.",
        conventions={"item": Convention("device", {"phone": "call", "laptop": "screen", "badge": "door"})},
        procedure=(WorkplaceStep("lock", {"user": "{first}@{last}", "item": "{item}"}, answer="locked"),),
    )
    systems = Convention("tool", {"mail": "letters", "the wiki": "notes", "payroll": "money"})
    may = _since("May", january, conventions={**january.conventions, "system": systems})  # January's names are others
    july = _since(  # no more without verifying
        "July",
        may,
        tools=(*may.tools, tools["verify"]),
        request="{first} {last}, {status}, {trouble} {tool}.",
        conventions={"kind": place.conventions["kind"], **may.conventions},
        procedure=(verify, act),
    )
    september = _since(  # March had another tool for the same loss
        "September",
        march,
        tools=(lock, Tool("wipe", ("user", "item"))),
        conventions={"item": Convention("device", {"phone": "number", "laptop": "files", "badge": "chip"})},
        procedure=(WorkplaceStep("wipe", {"user": "{first}@{last}", "item": "{item}"}, answer="wiped"),),
    )
    return [january, march, may, july, september]


_LIVES: dict[str, Callable[[Workplace], list[Workplace]]] = {
    DISPATCH.instance: _dispatch,
    HELPDESK.instance: _helpdesk,
}


def _since(month: str, place: Workplace, **changes: Any) -> Workplace:
    """``place`` as it works from ``month`` on."""
    house = place.system.removesuffix(".").partition(",")[0]
    return replace(place, since=month.lower(), system=f"{house}, {month}.", **changes)
