"""Worlds whose rules differ from the ones that were lived through: for newer notes, and for what is wrong on purpose.

``notes.py`` and ``demonstrations.py`` use these functions.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from looper.gym.workplace import Convention, Workplace, WorkplaceTask

NEW_CODES = ("brass", "comet", "dune", "flint", "gale", "lark", "moss-green", "quill")
"""Codes that no world has, and that no newer note of a training example names."""


@dataclass(frozen=True)
class ChangedRule:
    """One code of one convention that has changed."""

    convention: str
    """Name of the convention."""
    word: str
    """The word of the request that the code stands for."""
    old: str
    """The code before."""
    new: str
    """The code now."""


def change_one_code(task: WorkplaceTask, seed: int) -> tuple[WorkplaceTask, ChangedRule]:
    """Change the code of one convention that a task depends on.

    Args:
        task: The task.
        seed: Seed with which the task was drawn.

    Returns:
        The same task under the changed rule, and the rule. Which one is changed depends on the task's id alone.
    """
    world = task.workplace
    rng = Random(f"{seed} {world.instance} {task.id} newer")
    name = rng.choice([name for name in _argument_conventions(world) if _follows_rule(task, name)])
    convention = world.conventions[name]
    word = task.facts[convention.fact]
    old = convention.codes[word]
    others = sorted({*convention.codes.values()} - {old})
    new = rng.choice(others if others and rng.random() < 0.5 else NEW_CODES)
    conventions = {**world.conventions, name: replace(convention, codes={**convention.codes, word: new})}
    changed = replace(world, conventions=conventions)
    return replace(task, workplace=changed, facts={**task.facts, name: new}), ChangedRule(name, word, old, new)


def shuffle_codes(world: Workplace) -> Workplace:
    """Give every word the code of another word.

    Args:
        world: A world.

    Returns:
        The world with wrong codes. Conventions that name tools are unchanged: their codes are read off the tools.
    """
    shuffled = {name: _rotate(world.conventions[name]) for name in _argument_conventions(world)}
    return replace(world, conventions={**world.conventions, **shuffled})


def move_task(task: WorkplaceTask, world: Workplace) -> WorkplaceTask:
    """Put a task under other codes.

    Args:
        task: The task.
        world: The task's world with other codes for the same words.

    Returns:
        The task with the same request, whose right calls follow the other codes.
    """
    codes = {
        name: each.codes[task.facts[each.fact]] for name, each in world.conventions.items() if _follows_rule(task, name)
    }
    return replace(task, workplace=world, facts={**task.facts, **codes})


def _argument_conventions(world: Workplace) -> list[str]:
    """Return the conventions whose codes are arguments of calls, and not names of tools."""
    in_tools = {name for step in world.procedure for name in _fields(step.tool)}
    in_arguments = {name for step in world.procedure for text in step.arguments.values() for name in _fields(text)}
    return [name for name in world.conventions if name in in_arguments - in_tools]


def _follows_rule(task: WorkplaceTask, name: str) -> bool:
    """Return whether a code of a task is the one that its word stands for, and not that of an exception."""
    convention = task.workplace.conventions[name]
    return task.facts[name] == convention.codes[task.facts[convention.fact]]


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _rotate(convention: Convention) -> Convention:
    codes: Mapping[str, str] = convention.codes
    following = [*codes.values()][1:] + [*codes.values()][:1]
    return replace(convention, codes=dict(zip(codes, following, strict=True)))
