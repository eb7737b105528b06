"""The end of a consolidation, with the real gate, catalog and store: what is published, where, and what is kept."""

from pathlib import Path

import pytest

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.evaluation.high_water_marks import HighWaterMarks, load_marks
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.checkpoint import Candidate
from looper.jobs.queue.publication import Publisher
from looper.platform import adapters
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, TrainingProgress
from looper.platform.domain.names import InstanceName, ModelName
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.scores import TaskCounts
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import GateSettings
from tests.jobs.episodes import episode, submit
from tests.jobs.gate.simulation import Pair, scores_of

DESK = InstanceName("acme", "desk")
CHOSEN_RATE = 7e-4
"""What the trainer has chosen for the base model."""
MARKS = HighWaterMarks(sessions={"s": {0: TaskCounts(actions=1, right=1, loss=1, weight=1)}})


@pytest.fixture
def publisher(catalog: Catalog, store: ObjectStore, base_dir: Path) -> Publisher:
    return Publisher(catalog, store, "me", {"b": BaseModelSource(base_dir)}, GateSettings(canary_share=0.2))


def conclude(
    publisher: Publisher, number: int, tasks: list[Pair], marks: bytes | None, start: str | None = None
) -> Consolidation:
    """Conclude a consolidation whose candidate has these results on its new tasks."""
    submitted = [episode(number)]
    job = submit(
        publisher.catalog, publisher.store, str(DESK), submitted, base="b", recipe=Recipe(), id=f"batch {number}"
    )
    for stage, state in (
        (QueueStage.SYNTHESIS, ConsolidationState.TRAINING),
        (QueueStage.TRAINING, ConsolidationState.EVALUATING),
    ):
        publisher.catalog.claim("me", stage, limit=1, lease_s=60)
        if stage is QueueStage.TRAINING:
            progress = TrainingProgress(step=1, steps=1, learning_rate=CHOSEN_RATE)
            publisher.catalog.report_progress(job.id, "me", progress)
        publisher.catalog.hand_over(job.id, "me", state)
    (job,) = publisher.catalog.claim("me", QueueStage.CONCLUSION, limit=1, lease_s=60)
    candidate = Candidate(b"weights %d" % number, b"{}", b"state", scores_of(tasks), marks)
    if start is not None:
        checkpoint.keep_start(publisher.store, job.id, start)
    checkpoint.save_candidate(publisher.store, job.id, candidate)
    publisher.conclude(job)
    assert publisher.store.list(keys.checkpoints(job.id)) == []
    return publisher.catalog.get_consolidation(job.id)


def test_each_verdict_leads_to_its_channel(publisher: Publisher) -> None:
    catalog, store = publisher.catalog, publisher.store
    better: list[Pair] = [(1, 1, 0)] * 8
    passed = conclude(publisher, 1, better, MARKS.model_dump_json().encode())
    assert (passed.state, passed.reason) == (ConsolidationState.PUBLISHED, None)
    assert catalog.resolve(ModelName(DESK)) == passed.digest
    assert load_marks(store, DESK, passed.digest) == MARKS

    undecided = conclude(publisher, 2, better[:2], MARKS.model_dump_json().encode())
    assert undecided.state is ConsolidationState.PUBLISHED
    assert [(each.channel, each.digest) for each in catalog.resolve_targets(ModelName(DESK))] == [
        ("prod", passed.digest),
        ("canary", undecided.digest),
    ]
    assert catalog.get_channel_shares(DESK) == {"canary": 0.2}
    assert str(undecided.reason).startswith("undecided: too little evidence: 2 of 2 actions right on new tasks")
    manifest = adapters.fetch(store, "acme", str(undecided.digest)).read_manifest()
    assert manifest.verdict == undecided.verdict
    assert manifest.recipe == Recipe(learning_rate=CHOSEN_RATE)
    assert load_marks(store, DESK, undecided.digest) == MARKS

    refused = conclude(publisher, 3, [(1, 0, 1)] * 8, None)
    assert (refused.state, refused.digest) == (ConsolidationState.REJECTED, None)
    assert catalog.get_channels(DESK) == {"prod": passed.digest, "canary": undecided.digest}


def test_a_candidate_of_a_trainer_without_marks_is_published_without_them(publisher: Publisher) -> None:
    passed = conclude(publisher, 1, [(1, 1, 0)] * 8, None)
    assert passed.state is ConsolidationState.PUBLISHED
    assert load_marks(publisher.store, DESK, passed.digest) == HighWaterMarks()


def test_the_manifest_names_the_start_that_training_began_from(publisher: Publisher) -> None:
    begun = conclude(publisher, 1, [(1, 1, 0)] * 8, None, start="a" * 64)
    assert adapters.fetch(publisher.store, "acme", str(begun.digest)).read_manifest().start == "a" * 64
    later = conclude(publisher, 2, [(1, 1, 0)] * 8, None)
    files = adapters.fetch(publisher.store, "acme", str(later.digest))
    assert files.read_manifest().start is None
    assert b'"start"' not in files.manifest, "it is as earlier releases wrote it"
