"""Writes the files of a consolidation to the object store.

The report is written last: if it exists, all files exist. ``pipeline/run.py`` and ``pipeline/partitions.py`` call it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.synthesis.llm.instance_files import INSTANCE_STAGES, count_entries
from looper.jobs.synthesis.output.encode_files import FileEncoder
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.jobs.synthesis.output.report_page import render_report_page
from looper.jobs.synthesis.output.window_statistics import measure_packing
from looper.platform.domain.recipe import Recipe
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings.models import Reasoning


@dataclass(frozen=True)
class ExamplePublisher:
    """Writes the results of a cohort of consolidations."""

    store: ObjectStore
    """Receives the files."""
    base: BaseModelSource | None
    """The base model for which the examples are encoded. None: they are not."""
    recipes: Mapping[str, Recipe]
    """Recipe of each consolidation: how long its windows are, and in which contexts its examples are rendered."""
    reasoning: Reasoning | None = None
    """What happens to reasoning, as ``FileEncoder`` takes it."""

    def encoder(self, consolidation: str) -> FileEncoder | None:
        """Return the encoder for a consolidation's examples, or None if they are not encoded."""
        if self.base is None:
            return None
        return FileEncoder(
            self.base.on_this_node(weights=False), self.recipes[consolidation].max_seq_length, self.reasoning
        )

    def publish(self, consolidation: str, report: SynthesisReport, files: Iterable[tuple[str, bytes]]) -> None:
        """Write the files of one consolidation, its report last.

        Args:
            consolidation: Id of the consolidation.
            report: The report. Token counts and counts of other files are added to it.
            files: Name and content of each file.
        """
        packing = None
        for name, content in files:
            self.store.put(keys.examples(consolidation, name), content)
            if name == "train.windows.parquet":
                packing = measure_packing(content, self.recipes[consolidation].max_seq_length)
        counts = self._count_instance_files(consolidation)
        report = report.model_copy(update={"beside": counts, "packing": packing})
        page = render_report_page(report, consolidation)
        self.store.put(keys.examples(consolidation, "report.html"), page.encode())
        self.store.put(keys.examples(consolidation, "report.json"), report.model_dump_json().encode())

    def _count_instance_files(self, consolidation: str) -> dict[str, int]:
        """Return the number of entries of each file that a stage with a language model has written."""
        files = {f"{stage}.json": keys.examples(consolidation, f"{stage}.json") for stage in INSTANCE_STAGES}
        return {name: count_entries(name, self.store.get(key)) for name, key in files.items() if self.store.exists(key)}
