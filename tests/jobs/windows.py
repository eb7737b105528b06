"""Examples and their windows in the store, as synthesis writes them."""

from collections.abc import Mapping
from pathlib import Path

from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.jobs.consolidation.data.window_table import ExampleWindow
from looper.jobs.synthesis.output.encode_files import FileEncoder
from looper.jobs.synthesis.output.example_table import read_examples, read_pairs
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.example import Example
from looper.platform.objectstore import ObjectStore, keys


def put_examples(store: ObjectStore, job: Consolidation, parts: Mapping[str, bytes], base_dir: Path) -> None:
    """Write the files of a consolidation, and the windows of those that have any. What is there is replaced."""
    encoder = FileEncoder(base_dir, job.recipe.max_seq_length)
    for part, content in parts.items():
        replace_object(store, keys.examples(job.id, part), content)
        windows = keys.examples(job.id, part.replace(".parquet", ".windows.parquet"))
        if part in ("train.parquet", "holdout.parquet"):
            replace_object(store, windows, encoder.encode_examples(read_examples(content)))
        elif part == "pairs.parquet":
            replace_object(store, windows, encoder.encode_pairs(read_pairs(content)))


def replace_object(store: ObjectStore, key: str, content: bytes) -> None:
    """Write an object, whether it exists or not."""
    if store.exists(key):
        store.delete(key)
    store.put(key, content)


def windows_of(encoder: ExampleEncoder, *examples: Example) -> list[list[ExampleWindow]]:
    """Return the windows of each example."""
    return [
        [ExampleWindow(window, example.id, example.task_id, example.tools) for window in encoder.encode(example)]
        for example in examples
    ]
