"""Whatever happens to one job, or on one of two ranks alone, both ranks keep the same members.

A job is cancelled before each call of rank 0 to catalog or store, each time in a run of its own. Nothing else can see a
cancellation, so these are all the moments that there are.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from looper.jobs.consolidation import checkpoint
from looper.jobs.consolidation.shared_base import SharedBase
from looper.jobs.consolidation.trainer import Trainer
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, Stage, State
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import load_settings
from tests.jobs.test_trainer import Killed, claim, clock, die, queue, train_cohort
from tests.jobs.two_ranks import READ_FAULTS, SEEDS, STORE_FULL, Record, cancel_points, distinct, work
from tests.tiny import FLOAT32


class Runs:
    """The records and adapters of all runs."""

    def __init__(self, out: Path, ids: dict[str, str]) -> None:
        self._out, self._ids = out, ids

    def __getitem__(self, name: str) -> Record:
        """Rank 0's record of a run. Asserts that rank 1 held the same members after every decision."""
        first, second = self.records(name)
        assert first.raised == second.raised, name
        assert first.events == second.events, f"{name}: the ranks held different members"
        return first

    def records(self, name: str) -> list[Record]:
        paths = [self._out / name / f"rank-{rank}.json" for rank in range(2)]
        assert all(path.exists() for path in paths), f"{name} did not run: the ranks hung or failed in a run before it"
        return [Record(**json.loads(path.read_text())) for path in paths]

    def difference(self, name: str, of: str, other: str) -> float:
        """Between the adapters of job ``of`` in two runs: the largest ||W' - W|| / ||W|| of any tensor."""
        found, expected = self._weights(name, of), self._weights(other, of)
        return max(float((found[key] - tensor).norm() / tensor.norm()) for key, tensor in expected.items())

    def _weights(self, name: str, of: str) -> dict[str, torch.Tensor]:
        store = ObjectStore.open(load_settings(home=self._out / name))
        return load(checkpoint.candidate(store, self._ids[of]).weights)


def begin(home: Path, base: SharedBase) -> dict[str, str]:
    """Make the home that all runs start from: red, green and blue are claimed for training."""
    settings = load_settings(home=home)
    catalog, store = Catalog.open(settings), ObjectStore.open(settings)
    trainer = Trainer(base, catalog, store, owner="me", max_rank=16)
    steps = {"red": 3, "green": 1, "blue": 2}
    for name, seed in SEEDS.items():
        recipe = {"seed": seed, "max_steps": steps[name], "batch_size": 2, "target_modules": ("q_proj", "down_proj")}
        queue(trainer, name, count=6, **recipe)
    red, green, blue = claim(trainer)
    with pytest.raises(Killed):
        train_cohort([red], trainer, checkpoint_s=0, clock=clock(8, die))
    _tear_one(store, red)
    train_cohort([green], trainer)
    for job in catalog.claim("me", Stage.CONCLUSION, limit=8, lease_s=600):
        catalog.advance(job.id, "me", State.TRAINING)
    catalog.claim("me", Stage.TRAINING, limit=8, lease_s=600)
    catalog.close()
    return {"red": red.id, "green": green.id, "blue": blue.id}


def _tear_one(store: ObjectStore, job: Consolidation) -> None:
    """Put a checkpoint that cannot be read beside that of the first step."""
    assert checkpoint.saved_steps(store, job.id) == [1]
    first, second = (f"{keys.checkpoints(job.id)}/step-0000000{step}" for step in (1, 2))
    store.put(f"{second}/complete.json", store.get(f"{first}/complete.json"))
    store.put(f"{second}/state.safetensors", b"torn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, one_process: None) -> Runs:
    beginning, out = tmp_path_factory.mktemp("beginning"), tmp_path_factory.mktemp("runs")
    ids = begin(beginning, SharedBase(base_dir, FLOAT32))
    torch.multiprocessing.spawn(work, (base_dir, beginning, ids, out), nprocs=2)
    return Runs(out, ids)


def test_without_a_fault_all_are_trained(runs: Runs) -> None:
    assert runs["alone/whole"].events[:2] == ["step of blue", "blue takes step 1"]
    assert "step of red, blue" in runs["beside/whole"].events
    paused = runs["paused/whole"].events
    assert paused.index("blue takes step 1") < paused.index("red takes step 2"), "no step was under way as blue joined"
    for name in ("beside/whole", "paused/whole", "sharded/whole"):
        assert runs[name].states["red"] == runs[name].states["blue"] == State.EVALUATING
        assert runs.difference(name, "blue", "alone/whole") < 1e-3


@pytest.mark.parametrize(
    ("scenario", "job"), [("beside", "red"), ("beside", "green"), ("paused", "red"), ("sharded", "red")]
)
def test_a_job_is_cancelled_at_any_moment(runs: Runs, scenario: str, job: str) -> None:
    whole = runs[f"{scenario}/whole"]
    states = {name: State.CANCELLED if name == job else state for name, state in whole.states.items()}
    for number in cancel_points(scenario, job, whole.calls):
        name, call = f"{scenario}/{job}/{number}", whole.calls[number - 1]
        record = runs[name]
        assert record.raised is None, f"cancelled before {call}"
        assert record.states == states, f"cancelled before {call}"
        assert runs.difference(name, "blue", "alone/whole") < 1e-3, f"cancelled before {call}"


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_alone_cannot_read(runs: Runs, rank: int) -> None:
    for fault in READ_FAULTS:
        name = f"rank-{rank}/{fault}"
        record = runs[name]
        if fault == "down":
            assert record.raised == "StoreUnavailable: down"
            assert record.held == []
            continue
        assert record.states["blue"] == State.EVALUATING
        assert runs.difference(name, "blue", "alone/whole") < 1e-3
        if fault in ("torn", "gone"):
            assert record.states["red"] == State.EVALUATING
            assert "red takes step 1" in record.events, "it does not begin anew"
        else:
            assert record.states["red"] == State.FAILED
            reason = "it is not there" if fault == "missing" else "unexpected ArrowInvalid"
            assert reason in str(record.reasons["red"])


@pytest.mark.parametrize("what", STORE_FULL)
def test_a_full_store_fails_one_job_on_both_ranks(runs: Runs, what: str) -> None:
    record = runs[f"full/{what}"]
    assert (record.states["red"], record.reasons["red"]) == (State.FAILED, "full")
    assert record.states["blue"] == State.EVALUATING
    assert runs.difference(f"full/{what}", "blue", "alone/whole") < 1e-3


def test_a_store_or_catalog_that_is_down_ends_both_ranks(runs: Runs) -> None:
    for number, call in enumerate(distinct(runs["beside/whole"].calls)):
        record = runs[f"down/{number}"]
        assert record.raised == "StoreUnavailable: down", f"down at {call}"
        assert record.held == [], f"down at {call}"


def test_only_rank_0_calls_the_catalog(runs: Runs) -> None:
    for name in ("beside/whole", "paused/whole", "stopped/whole"):
        _, second = runs.records(name)
        assert not [call for call in second.calls if call.startswith("Catalog.")]


def test_a_stopped_trainer_saves_before_it_releases(runs: Runs) -> None:
    record = runs["stopped/whole"]
    assert record.held == ["green"], "never claimed in this run"
    saved = record.calls.index("ObjectStore.put(checkpoints/blue/step-00000001/complete.json)")
    assert record.calls[-1].startswith("Catalog.release(")
    assert saved < len(record.calls) - 1
