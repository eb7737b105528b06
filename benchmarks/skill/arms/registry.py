"""Lists the arms of the benchmark. A new knowledge layer is one more element of ``_list_systems``."""

from collections.abc import Iterable

from looper.benchmarks.skill.arms.arm import Adapter, Arm
from looper.benchmarks.skill.arms.expel import Expel
from looper.benchmarks.skill.arms.file_memory import FileMemory
from looper.benchmarks.skill.arms.memory_system import MemorySystem
from looper.benchmarks.skill.arms.notes import OTHER_TEXT_TOKENS, NewerNote, Notes, NotesAmongText, ShuffledNotes
from looper.benchmarks.skill.arms.nothing import CallFormat, NoKnowledge
from looper.benchmarks.skill.arms.paging_memory import PagingMemory
from looper.benchmarks.skill.arms.playbook import Playbook
from looper.benchmarks.skill.arms.reflexion import Reflexion
from looper.benchmarks.skill.arms.retrieval import (
    RESERVED_TOKENS,
    ManyShot,
    OracleDemonstrations,
    Retrieval,
    WrongDemonstrations,
)
from looper.benchmarks.skill.arms.workflows import WorkflowMemory


def list_quick_arms() -> list[Arm]:
    """Return the arms of ``--quick``: those that answer whether a skill adds to knowledge.

    Returns:
        The arms, those of the base model first: with adapters in a batch, the engine is slower for the whole batch.
    """
    everywhere: list[MemorySystem] = [NoKnowledge(), Notes(), Retrieval(4, as_text=True)]
    base_alone: list[MemorySystem] = [CallFormat(), *(Retrieval(count) for count in (1, 4, 8))]
    robustness: list[MemorySystem] = [NewerNote(), WrongDemonstrations(), ShuffledNotes()]
    return [
        *_combine(Adapter.BASE, [*everywhere, *base_alone, *robustness]),
        *_combine(Adapter.SKILL, [*everywhere, Retrieval(4), *robustness]),
        *_combine(Adapter.BARE_TAUGHT, everywhere),
    ]


def list_arms(context_tokens: int) -> tuple[list[Arm], dict[str, str]]:
    """Return all arms.

    Args:
        context_tokens: Maximum tokens of prompt and answer together.

    Returns:
        The arms, those of the base model first, and the reason for each knowledge layer that is left out.
    """
    systems = _list_systems(context_tokens)
    left_out = {}
    if context_tokens < OTHER_TEXT_TOKENS + RESERVED_TOKENS:
        reason = f"the context has {context_tokens:,} tokens, fewer than {OTHER_TEXT_TOKENS + RESERVED_TOKENS:,}"
        left_out = {each.name: reason for each in systems if isinstance(each, NotesAmongText)}
        systems = [each for each in systems if each.name not in left_out]
    learned = [each for each in systems if not isinstance(each, CallFormat)]  # an adapter knows how calls are written
    beside_bare = [NoKnowledge(), Notes(), Retrieval(4), Retrieval(4, as_text=True), NewerNote(), WrongDemonstrations()]
    arms = [
        *_combine(Adapter.BASE, systems),
        *_combine(Adapter.NEUTRAL, learned),
        *_combine(Adapter.SKILL, learned),
        *_combine(Adapter.BARE_TAUGHT, beside_bare),
        *_combine(Adapter.WRONG_TENANT, [NoKnowledge(), Notes()]),
    ]
    return arms, left_out


def _list_systems(context_tokens: int) -> list[MemorySystem]:
    return [
        NoKnowledge(),
        CallFormat(),
        Notes(),
        *(Retrieval(count, hybrid=hybrid) for count in (1, 4, 8) for hybrid in (False, True)),
        *(Retrieval(count, as_text=True) for count in (1, 4, 8)),
        ManyShot(context_tokens),
        OracleDemonstrations(),
        Reflexion(),
        Expel(),
        WorkflowMemory(),
        PagingMemory(),
        FileMemory(),
        Playbook(),
        ShuffledNotes(),
        NewerNote(),
        WrongDemonstrations(),
        *(NotesAmongText(place) for place in ("first", "middle", "last")),
    ]


def _combine(adapter: Adapter, systems: Iterable[MemorySystem]) -> list[Arm]:
    return [Arm(adapter, system, writer) for system in systems for writer in system.writers]
