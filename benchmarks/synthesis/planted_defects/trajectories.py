"""Build trajectories of the gym with planted defects, and score how well a synthesis pipeline finds them.

``plant_defects(seed)`` returns the episodes and the ground truth about them. ``score_drafts`` compares it with the
pipeline's result, and ``to_markdown`` shows the scores. Each class of defects has controls: episodes that look like it
and are clean, such as a status that is polled until it changes, or an answer that contains the word "error". The tests
of ``looper.jobs.synthesis`` and the corpus of ``looper bench synthesis`` use this module.

Every episode has its own task and request, except where copies and leaks are planted. Copies have no defects in their
steps, so a pipeline that drops a copy does not lose a defect.
"""

from collections.abc import Callable
from itertools import chain

from looper.benchmarks.synthesis.planted_defects.duplicates import (
    add_duplicates,
    add_kept_variants,
    add_leak,
    add_reworded_leak,
    add_shared_greeting,
    add_similar_request,
    add_too_many_variants,
)
from looper.benchmarks.synthesis.planted_defects.episode_files import EpisodeFiles, play_expert
from looper.benchmarks.synthesis.planted_defects.episode_script import HISTORY, EpisodeScript
from looper.benchmarks.synthesis.planted_defects.ground_truth import (
    DefectKind,
    PlantedCorpus,
    PlantedGroup,
    PlantedSpan,
    PlantedText,
)
from looper.benchmarks.synthesis.planted_defects.repetition import (
    add_changed_arguments,
    add_loop,
    add_polling,
    add_read_after_write,
    add_repeated_call,
)
from looper.benchmarks.synthesis.planted_defects.scoring import ClassScore, score_drafts, to_markdown
from looper.benchmarks.synthesis.planted_defects.sensitive_cases import (
    add_harmless_workplace_words,
    harmless_case,
    sensitive_case,
)
from looper.benchmarks.synthesis.planted_defects.tool_errors import (
    add_causal_error_code,
    add_causal_error_text,
    add_environment_error,
    add_harmless_error_words,
    add_informative_error,
    add_transient_error,
)
from looper.gym.workplace import Workplace
from looper.gym.workplaces import WORKPLACES

__all__ = [
    "ClassScore",
    "DefectKind",
    "PlantedCorpus",
    "PlantedGroup",
    "PlantedSpan",
    "PlantedText",
    "plant_defects",
    "score_drafts",
    "to_markdown",
]


def plant_defects(seed: int) -> PlantedCorpus:
    """Build the trajectories of all workplaces with planted defects.

    Args:
        seed: Seed of the tasks and of what is planted. The same seed gives the same trajectories, byte for byte.

    Returns:
        The trajectories with the ground truth about them.
    """
    by_workplace = [_build_files(workplace, seed) for workplace in WORKPLACES.values()]
    return PlantedCorpus(
        batches=[batch for files in by_workplace for batch in files.batches],
        instances=[files.workplace.instance for files in by_workplace for _ in files.batches],
        spans=tuple(chain.from_iterable(files.spans for files in by_workplace)),
        groups=tuple(chain.from_iterable(files.groups for files in by_workplace)),
        texts=tuple(chain.from_iterable(files.texts for files in by_workplace)),
    )


def _build_files(workplace: Workplace, seed: int) -> EpisodeFiles:
    files = EpisodeFiles(workplace, seed)
    for add_case, count in _CASE_COUNTS:
        for number in range(count):
            add_case(files, number)
    if _can_skip_first_step(workplace):
        for _ in range(LUCKY_COUNT):
            _add_lucky_success(files)
        for number in range(MORE_CLEAN_COUNT):
            _add_clean_episode(files, number)
    files.shuffle()
    return files


def _add_clean_episode(files: EpisodeFiles, number: int) -> None:
    """Two of five use the optional history tool, and one of four meets the workplace's own error."""
    task = files.new_task(blocked=number % 4 == 3)
    files.add_episode(play_expert(task, (HISTORY,) if number % 5 < 2 else ()).finish())


def _can_skip_first_step(workplace: Workplace) -> bool:
    """Whether an agent can do the task without the first step. It cannot if it needs the answer."""
    first = workplace.procedure[0]
    return first.reads and "{" not in first.answer


def _add_lucky_success(files: EpisodeFiles) -> None:
    script = EpisodeScript(files.new_task())
    script.call_tool(script.write_call)
    script.finish_task()
    trajectory = files.add_episode(script.finish())
    files.groups.append(PlantedGroup(DefectKind.LUCKY, frozenset({trajectory}), cases=1, max_named=1))


_CASE_COUNTS: tuple[tuple[Callable[[EpisodeFiles, int], None], int], ...] = (
    (_add_clean_episode, 60),
    (add_loop, 18),
    (add_repeated_call, 12),
    (add_read_after_write, 6),
    (add_polling, 8),
    (add_changed_arguments, 9),
    (add_transient_error, 14),
    (add_causal_error_code, 14),
    (add_causal_error_text, 12),
    (add_informative_error, 15),
    (add_environment_error, 14),
    (add_harmless_error_words, 12),
    (sensitive_case(DefectKind.SECRET), 14),
    (harmless_case(DefectKind.SECRET), 7),
    (sensitive_case(DefectKind.PERSONAL), 14),
    (harmless_case(DefectKind.PERSONAL), 7),
    (add_harmless_workplace_words, 6),
    (add_duplicates, 9),
    (add_too_many_variants, 3),
    (add_kept_variants, 4),
    (add_leak, 11),
    (add_shared_greeting, 4),
    (add_reworded_leak, 6),
    (add_similar_request, 5),
)
"""Number of each case per workplace."""

LUCKY_COUNT = 22
"""Lucky successes in a workplace whose first step can be skipped."""
MORE_CLEAN_COUNT = 60
"""More clean episodes in such a workplace. Nearly all successes must contain what the rules require."""
