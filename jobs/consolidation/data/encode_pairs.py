"""Encode preference pairs: two windows with the same prompt for each pair. Synthesis calls it for its pairs."""

from collections import Counter
from collections.abc import Iterable

from looper.basemodel.chat_renderer import Unrenderable
from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable
from looper.jobs.synthesis.stages.preference_pairs import PreferencePair


def encode_pairs(
    pairs: Iterable[PreferencePair], encoder: ExampleEncoder, max_seq_length: int, base_revision: str
) -> WindowTable:
    """Encode pairs. A pair that cannot be encoded is counted, and the others are used.

    Args:
        pairs: The pairs of a consolidation.
        encoder: Encoder of the base model.
        max_seq_length: Maximum tokens of a window.
        base_revision: Revision of the base model.

    Returns:
        For each pair the window with the preferred turn, and then the other one.
    """
    rows: list[ExampleWindow] = []
    left_out: dict[str, Counter[str]] = {}
    for pair in pairs:
        windows = _encode_pair(pair, encoder, max_seq_length)
        if isinstance(windows, str):
            left_out.setdefault(pair.task_id, Counter())[windows] += 1
            continue
        rows += (ExampleWindow(window, pair.chosen_from, pair.task_id, pair.tools) for window in windows)
    return WindowTable(rows, base_revision, left_out)


def _encode_pair(pair: PreferencePair, encoder: ExampleEncoder, max_seq_length: int) -> list[Window] | str:
    """Return the pair as windows, or the reason why it cannot be used."""
    turns = (pair.chosen, pair.rejected)
    if not all(turn.content.strip() or turn.tool_calls for turn in turns):
        return "empty"
    try:
        windows = encoder.encode_answers(pair.prefix, turns, pair.tools)
    except MemoryError:  # not a property of the pair
        raise
    except Exception as error:  # templates are programs: any type may come out of one
        return "refused by the chat template" if isinstance(error, Unrenderable) else "unexpected error of the template"
    chosen, rejected = windows
    if chosen == rejected:
        return "identical"
    if max(len(chosen), len(rejected)) > max_seq_length:  # after cropping, the two prefixes would differ
        return "longer than max_seq_length"
    return windows
