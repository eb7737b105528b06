"""The queue worker looks up the start of a first training before synthesis, by the base model's weights."""

from pathlib import Path

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.queue.worker import QueueWorker
from looper.platform.adapters.files import AdapterFiles
from looper.platform.adapters.starts import StartManifest, add_start
from looper.platform.catalog import Catalog
from looper.platform.domain.states import ConsolidationState
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from tests.jobs.episodes import RECIPE, episode, submit


def test_a_start_of_other_weights_fails_before_synthesis(
    catalog: Catalog, store: ObjectStore, settings: Settings, base_dir: Path
) -> None:
    about = StartManifest(base=settings.base, base_revision="r0", rank=4, target_modules=("q_proj",), adapts_all=True)
    add_start(store, "tool-use", AdapterFiles(b"weights", b'{"r": 4, "lora_alpha": 8}', about.to_bytes()))
    recipe = RECIPE.model_copy(update={"start": "tool-use"})
    job = submit(catalog, store, "acme/red", [episode(1)], base=settings.base, recipe=recipe)
    assert QueueWorker(catalog, store, settings, {settings.base: BaseModelSource(base_dir)}).synthesize()
    failed = catalog.get_consolidation(job.id)
    assert failed.state is ConsolidationState.FAILED
    assert "start 'tool-use' was made for revision r0" in str(failed.reason)
