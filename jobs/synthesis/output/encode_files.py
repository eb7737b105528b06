"""Writes the tokens of examples beside the examples, for the trainers, which only read them.

``publish.py`` calls it for each file of a consolidation.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from looper.jobs.synthesis.output.example_table import read_examples, read_pairs
from looper.platform.adapters.base_revision import read_base_manifest

if TYPE_CHECKING:
    from looper.jobs.consolidation.data.window_table import WindowTable

WINDOW_FILES: Mapping[str, str] = {
    "train.parquet": "train.windows.parquet",
    "holdout.parquet": "holdout.windows.parquet",
    "pairs.parquet": "pairs.windows.parquet",
}
"""Name of the file of windows for each file that is encoded."""

_LOCK = Lock()
"""Held while a thread encodes: a tokenizer serves one thread, and two threads must not import vLLM."""


def encode_file(name: str, content: bytes, model_dir: Path, max_seq_length: int) -> "WindowTable":
    """Encode one of a consolidation's files.

    Args:
        name: Name of the file, one of ``WINDOW_FILES``.
        content: Content of the file.
        model_dir: Folder of the base model.
        max_seq_length: Maximum tokens of a window.

    Returns:
        The windows.
    """
    with _LOCK:
        # Imports vLLM, which takes seconds that only jobs with a base model need.
        from looper.jobs.consolidation.data.encode import ExampleEncoder
        from looper.jobs.consolidation.data.encode_pairs import encode_pairs
        from looper.jobs.consolidation.data.window_table import ExampleWindow, WindowTable

        encoder = ExampleEncoder.open(model_dir, max_seq_length)
        revision = read_base_manifest(model_dir).revision
        if name == "pairs.parquet":
            return encode_pairs(read_pairs(content), encoder, max_seq_length, revision)
        rows = [
            ExampleWindow(window, example.id, example.task_id, example.tools)
            for example in read_examples(content)
            for window in encoder.encode(example)
        ]
        return WindowTable(rows, dict(encoder.left_out), revision, encoder.cropped)
