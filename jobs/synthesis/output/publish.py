"""Puts what was made of a consolidation into the store: the report last, as the sign that all is there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from looper.jobs.synthesis.llm.instance_files import SHARED, count
from looper.jobs.synthesis.output.report import SynthesisReport
from looper.jobs.synthesis.output.report_page import to_html
from looper.jobs.synthesis.output.window_statistics import packing
from looper.platform.objectstore import ObjectStore, keys


@dataclass(frozen=True)
class Publisher:
    """Whose files go where, and by what they are measured."""

    store: ObjectStore
    model_dir: Path | None
    """The base's, if it is at hand: examples are measured in its tokens."""
    windows: Mapping[str, int]
    """Tokens of a window, by consolidation."""

    def publish(self, id: str, report: SynthesisReport, files: Iterable[tuple[str, bytes]]) -> None:
        measured = None
        for name, content in files:
            self.store.put(keys.examples(id, name), content)
            if name == "train.parquet" and self.model_dir is not None:
                measured = packing(content, self.model_dir, self.windows[id])
        report = report.model_copy(update={"beside": self._beside(id), "packing": measured})
        self.store.put(keys.examples(id, "report.html"), to_html(report, id).encode())
        self.store.put(keys.examples(id, "report.json"), report.model_dump_json().encode())

    def _beside(self, id: str) -> dict[str, int]:
        """How many the files hold that stages which ask a model have put there."""
        found = {f"{stage}.json": keys.examples(id, f"{stage}.json") for stage in SHARED}
        return {name: count(name, self.store.get(key)) for name, key in found.items() if self.store.exists(key)}
