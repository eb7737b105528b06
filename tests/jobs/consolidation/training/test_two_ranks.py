"""Both ranks keep the same members, whatever happens to one job or on one rank only.

A job is cancelled before each call of rank 0 to catalog or store, each time in a separate run. Only these calls can
notice a cancellation, so no other moments matter.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from looper.jobs.consolidation.model.shared_base import SharedBase
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.trainer_context import TrainerContext
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import load_settings
from tests.jobs.consolidation.training.test_trainer import (
    Killed,
    claim,
    raise_killed,
    submit_job,
    ticking_clock,
    train_jobs,
)
from tests.jobs.consolidation.training.two_ranks import (
    READ_FAULTS,
    SEEDS,
    STORE_FULL,
    Record,
    cancel_points,
    first_of_each_kind,
    run_rank,
)
from tests.tiny import FLOAT32


class Runs:
    """The records and adapters of all runs."""

    def __init__(self, out: Path, ids: dict[str, str], world: int = 2) -> None:
        self._out, self._ids, self._world = out, ids, world

    def __getitem__(self, name: str) -> Record:
        """Return rank 0's record of a run. Assert that all had the same members after every decision."""
        first, *others = self.records(name)
        for other in others:
            assert first.raised == other.raised, name
            assert first.events == other.events, f"{name}: the ranks had different members"
        return first

    def records(self, name: str) -> list[Record]:
        paths = [self._out / name / f"rank-{rank}.json" for rank in range(self._world)]
        assert all(path.exists() for path in paths), f"{name} did not run: the ranks hung or failed in a run before it"
        return [Record(**json.loads(path.read_text())) for path in paths]

    def difference(self, name: str, of: str, other: str) -> float:
        """Compare the adapters of job ``of`` in two runs: return the largest ||W' - W|| / ||W|| of any tensor."""
        found, expected = self._weights(name, of), self._weights(other, of)
        return max(float((found[key] - tensor).norm() / tensor.norm()) for key, tensor in expected.items())

    def _weights(self, name: str, of: str) -> dict[str, torch.Tensor]:
        store = ObjectStore.open(load_settings(home=self._out / name))
        return load(checkpoint.load_candidate(store, self._ids[of]).weights)


def prepare_home(home: Path, base: SharedBase) -> dict[str, str]:
    """Make the home that all runs start from, with red, green and blue claimed for training."""
    settings = load_settings(home=home)
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    trainer = TrainerContext(base, catalog, store, owner="me", max_rank=16)
    steps = {"red": 3, "green": 1, "blue": 2}
    for name, seed in SEEDS.items():
        recipe = {"seed": seed, "max_steps": steps[name], "batch_size": 2, "target_modules": ("q_proj", "down_proj")}
        submit_job(trainer, name, count=6, **recipe)
    red, green, blue = claim(trainer)
    with pytest.raises(Killed):
        train_jobs([red], trainer, checkpoint_interval_s=0, clock=ticking_clock(8, raise_killed))
    _add_damaged_checkpoint(store, red)
    train_jobs([green], trainer)
    for job in catalog.claim("me", QueueStage.CONCLUSION, limit=8, lease_s=600):
        catalog.advance(job.id, "me", ConsolidationState.TRAINING)
    catalog.claim("me", QueueStage.TRAINING, limit=8, lease_s=600)
    catalog.close()
    return {"red": red.id, "green": green.id, "blue": blue.id}


def _add_damaged_checkpoint(store: ObjectStore, job: Consolidation) -> None:
    """Add a checkpoint that cannot be read, newer than that of the first step."""
    assert checkpoint.list_checkpoint_steps(store, job.id) == [1]
    first, second = (f"{keys.checkpoints(job.id)}/step-0000000{step}" for step in (1, 2))
    store.put(f"{second}/complete.json", store.get(f"{first}/complete.json"))
    store.put(f"{second}/state.safetensors", b"torn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, one_process: None) -> Runs:
    initial_home, out = tmp_path_factory.mktemp("initial"), tmp_path_factory.mktemp("runs")
    ids = prepare_home(initial_home, SharedBase(base_dir, FLOAT32))
    torch.multiprocessing.spawn(run_rank, (base_dir, initial_home, ids, out), nprocs=2)
    return Runs(out, ids)


def test_without_a_fault_all_jobs_are_trained(runs: Runs) -> None:
    assert runs["alone/whole"].events[:2] == ["step of blue", "blue takes step 1"]
    assert "step of red, blue" in runs["beside/whole"].events
    paused = runs["paused/whole"].events
    assert paused.index("blue takes step 1") < paused.index("red takes step 2"), (
        "no step was in progress when blue joined"
    )
    for name in ("beside/whole", "paused/whole", "sharded/whole"):
        assert runs[name].states["red"] == runs[name].states["blue"] == ConsolidationState.EVALUATING
        assert runs.difference(name, "blue", "alone/whole") < 1e-3


@pytest.mark.parametrize(
    ("scenario", "job"), [("beside", "red"), ("beside", "green"), ("paused", "red"), ("sharded", "red")]
)
def test_a_job_can_be_cancelled_at_any_moment(runs: Runs, scenario: str, job: str) -> None:
    whole = runs[f"{scenario}/whole"]
    states = {name: ConsolidationState.CANCELLED if name == job else state for name, state in whole.states.items()}
    for number in cancel_points(scenario, job, whole.calls):
        name, call = f"{scenario}/{job}/{number}", whole.calls[number - 1]
        record = runs[name]
        assert record.raised is None, f"cancelled before {call}"
        assert record.states == states, f"cancelled before {call}"
        assert runs.difference(name, "blue", "alone/whole") < 1e-3, f"cancelled before {call}"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_read_that_fails_on_one_rank_fails_on_both(runs: Runs, rank: int) -> None:
    for fault in READ_FAULTS:
        name = f"rank-{rank}/{fault}"
        record = runs[name]
        if fault == "down":
            assert record.raised == "StoreUnavailable: down"
            assert record.leased == []
            continue
        assert record.states["blue"] == ConsolidationState.EVALUATING
        assert runs.difference(name, "blue", "alone/whole") < 1e-3
        if fault in ("torn", "gone"):
            assert record.states["red"] == ConsolidationState.EVALUATING
            assert "red takes step 1" in record.events, "it did not start again"
        else:
            assert record.states["red"] == ConsolidationState.FAILED
            reason = "the object is missing" if fault == "missing" else "unexpected ArrowInvalid"
            assert reason in str(record.reasons["red"])


@pytest.mark.parametrize("what", STORE_FULL)
def test_a_full_store_fails_one_job_on_both_ranks(runs: Runs, what: str) -> None:
    record = runs[f"full/{what}"]
    assert (record.states["red"], record.reasons["red"]) == (ConsolidationState.FAILED, "full")
    assert record.states["blue"] == ConsolidationState.EVALUATING
    assert runs.difference(f"full/{what}", "blue", "alone/whole") < 1e-3


def test_a_store_or_catalog_that_is_down_ends_both_ranks(runs: Runs) -> None:
    for number, call in enumerate(first_of_each_kind(runs["beside/whole"].calls)):
        record = runs[f"down/{number}"]
        assert record.raised == "StoreUnavailable: down", f"down at {call}"
        assert record.leased == [], f"down at {call}"


def test_only_rank_0_calls_the_catalog(runs: Runs) -> None:
    for name in ("beside/whole", "paused/whole", "stopped/whole"):
        _, second = runs.records(name)
        assert not [call for call in second.calls if call.startswith("Catalog.")]


def test_a_stopped_trainer_saves_before_it_releases(runs: Runs) -> None:
    record = runs["stopped/whole"]
    assert record.leased == ["green"], "never claimed in this run"
    saved = record.calls.index("ObjectStore.put(checkpoints/blue/step-00000001/complete.json)")
    assert record.calls[-1].startswith("Catalog.release(")
    assert saved < len(record.calls) - 1
