"""Let every arm work on the same tasks, and keep each finished episode.

``bench.py`` calls ``run_arms``. What the result store already has is not done again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from looper.benchmarks.skill.arms.arm import Adapter, Arm
from looper.benchmarks.skill.arms.memory_system import Memory
from looper.benchmarks.skill.player import TaskPlayer
from looper.benchmarks.skill.results import EpisodeKey, EpisodeRecord, MemoryKey, MemoryRecord, ResultStore
from looper.benchmarks.skill.served_models import ServedModel, ServedModels
from looper.benchmarks.skill.worlds import Experience
from looper.gym.workplace import WorkplaceTask


def run_arms(
    arms: Sequence[Arm],
    tasks: Mapping[Experience, Sequence[WorkplaceTask]],
    models: ServedModels,
    store: ResultStore,
    notify: Callable[[str], None],
    report: Callable[[], object],
) -> dict[str, str]:
    """Play the episodes that are missing.

    Args:
        arms: The arms, in the order in which they are played.
        tasks: The tasks of each world and seed.
        models: The models.
        store: Keeps the results.
        notify: Called with the progress.
        report: Called after each arm that had episodes to play.

    Returns:
        The reason for each arm that has no model in any world.
    """
    skipped = {}
    with ThreadPoolExecutor(models.max_concurrency) as pool:
        for number, arm in enumerate(arms, start=1):
            pending = []
            for experience, asked in tasks.items():
                model = models.find(arm.adapter, experience.world.instance, experience.seed)
                if model is None:
                    continue
                missing = [task for task in asked if _key(arm, experience, task) not in store.episodes]
                if missing:
                    notify(f"arm {number} of {len(arms)}, {arm.name}: memory of {experience.world.instance}")
                    memory = _load_or_write_memory(arm, experience, models.base, store)
                    pending += [(arm, memory, task, model) for task in missing]
            notify(f"arm {number} of {len(arms)}, {arm.name}: {len(pending)} episodes")
            futures = [pool.submit(_play, *each, store) for each in pending]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            if pending:
                report()
            if not any(models.find(arm.adapter, each.world.instance, each.seed) for each in tasks):
                skipped[arm.name] = models.missing.get(arm.adapter, "no world of the run has such an adapter")
    return skipped


def is_complete(arms: Sequence[Arm], tasks: Mapping[Experience, Sequence[WorkplaceTask]], store: ResultStore) -> bool:
    """Return whether every episode of some arms is finished.

    Args:
        arms: The arms.
        tasks: The tasks of each world and seed.
        store: The results.
    """
    return all(
        _key(arm, experience, task) in store.episodes
        for arm in arms
        for experience, asked in tasks.items()
        for task in asked
    )


def _play(arm: Arm, memory: Memory, task: WorkplaceTask, model: ServedModel, store: ResultStore) -> None:
    chat = model.open_chat()
    began = time.monotonic()
    result = arm.system.play(task, memory, TaskPlayer(chat, needs_format=arm.adapter is Adapter.BASE))
    key = _key(arm, memory.experience, task)
    record = EpisodeRecord(
        **key._asdict(),
        model=chat.model,
        strict=result.is_strict_success,
        success=result.success,
        turns=len(result.turns),
        requests=chat.usage.requests,
        prompt_tokens=chat.usage.prompt_tokens,
        cached_tokens=chat.usage.cached_tokens,
        completion_tokens=chat.usage.completion_tokens,
        seconds=round(time.monotonic() - began, 3),
        refused=chat.refusals > 0,
        trained_tokens=model.learning_tokens,
    )
    store.add_episode(record)


def _load_or_write_memory(arm: Arm, experience: Experience, base: ServedModel, store: ResultStore) -> Memory:
    """Return the memory of an arm. All adapters have the one that the base model wrote."""
    key = MemoryKey(experience.world.instance, experience.seed, arm.system.name, str(arm.writer))
    record = store.memories.get(key)
    if record is None:
        chat, began = base.open_chat(), time.monotonic()
        entries = arm.system.learn(experience, arm.writer, chat)
        record = MemoryRecord(
            **key._asdict(),
            entries=entries,
            tokens=chat.usage.prompt_tokens + chat.usage.completion_tokens,
            seconds=round(time.monotonic() - began, 3),
        )
        store.add_memory(record)
    return Memory(experience, arm.writer, record.entries)


def _key(arm: Arm, experience: Experience, task: WorkplaceTask) -> EpisodeKey:
    return EpisodeKey(experience.world.instance, experience.seed, arm.name, task.id)
