"""Encodes examples and pairs as tokens of the base model, for the trainers, which only read them.

``output_files.py`` calls it for each partition, in the workers of Ray Data.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from looper.basemodel.vllm_logging import import_vllm_quietly
from looper.jobs.synthesis.stages.preference_pairs import PreferencePair
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.domain.example import Example
from looper.platform.settings.models import Reasoning

_LOCK = Lock()
"""Held while a thread encodes: a tokenizer serves one thread, and two threads must not import vLLM."""


@dataclass(frozen=True)
class FileEncoder:
    """Encodes for one base model and one length of windows."""

    model_dir: Path
    """Folder of the base model."""
    max_seq_length: int
    """Maximum tokens of a window."""
    reasoning: Reasoning | None = None
    """What happens to reasoning. None: it is learned if the engine reads it, or else left out."""

    def encode_examples(self, examples: Iterable[Example]) -> bytes:
        """Encode examples.

        Args:
            examples: The examples.

        Returns:
            Content of a file of windows.
        """
        with _LOCK, import_vllm_quietly():  # it takes seconds, which only jobs with a base model need
            from looper.jobs.consolidation.data.encode import ExampleEncoder
            from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable, write_windows

            encoder = ExampleEncoder.open(self.model_dir, self.max_seq_length, self.reasoning)
            rows: list[ExampleWindow] = []
            left_out: dict[str, Counter[str]] = {}
            cropped: Counter[str] = Counter()
            for example in examples:
                encoder.left_out, encoder.cropped = left_out.setdefault(example.task_id, Counter()), 0
                windows = encoder.encode(example)
                rows += (ExampleWindow(window, example.id, example.task_id, example.tools) for window in windows)
                cropped[example.task_id] += encoder.cropped
            left_out = {task: of for task, of in left_out.items() if of}
            return write_windows(WindowTable(rows, read_base_revision(self.model_dir), left_out, +cropped))

    def encode_pairs(self, pairs: Iterable[PreferencePair]) -> bytes:
        """Encode preference pairs.

        Args:
            pairs: The pairs.

        Returns:
            Content of a file with two windows for each pair.
        """
        with _LOCK, import_vllm_quietly():
            from looper.jobs.consolidation.data.encode import ExampleEncoder
            from looper.jobs.consolidation.data.encode_pairs import encode_pairs
            from looper.jobs.consolidation.data.window_table import write_windows

            encoder = ExampleEncoder.open(self.model_dir, self.max_seq_length, self.reasoning)
            return write_windows(encode_pairs(pairs, encoder, self.max_seq_length, read_base_revision(self.model_dir)))
