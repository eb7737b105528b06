"""The foreman has the queue worked: it synthesises, keeps trainers running where they are wanted, and concludes.

Any number of foremen may run: the catalog gives each piece of work to one. All that a foreman knows is in catalog and
store, so that another goes on where it was killed: from the report of synthesis, the checkpoints of training, or the
candidate that awaits its verdict.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import ray

from looper.jobs import basemodel
from looper.jobs.consolidation.training import checkpoint
from looper.jobs.consolidation.training.run import CannotStart, TrainingRun, train
from looper.jobs.gate import judge
from looper.jobs.queue.leases import LeaseHolder
from looper.jobs.synthesis.pipeline.run import synthesize
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, ConsolidationState, GateVerdict, QueueStage
from looper.platform.domain.errors import Conflict, InvalidInput, LooperError, StoreFull, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings

log = logging.getLogger(__name__)

IDLE_S = 0.5
"""Between two looks at an empty queue."""

ENDING_S = 30.0
"""For a trainer to end in once it was told to; Ray takes a dozen of them."""

RETRY_S = 2.0
"""After a trainer that broke off, before another takes its place."""

SWEEP_S = 60.0
"""Between two looks at what ended consolidations left in the store."""

SYNTHESIS_BATCH = 256
"""Most consolidations whose trajectories are read at once: a run of Ray Data costs seconds, however little it reads."""

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "ray")


def work_queue(
    catalog: Catalog, store: ObjectStore, settings: Settings, model_dir: Path, until: Callable[[], bool]
) -> None:
    """Work the queue on the current Ray until ``until`` says so. Then trainers end and unfinished work is given back.

    ``model_dir`` is the folder of ``settings.base`` that ``looper.jobs.basemodel.prepare`` returned. What goes wrong
    with one consolidation fails that one, with the reason; when the store fails, all wait until it is back.
    """
    foreman = QueueWorker(catalog, store, settings, model_dir)
    stopping = foreman.stopping
    # Daemons, since what they wait for, Ray's training runs, cannot be told to end at once; their work is given back
    # below, and what they write afterwards is refused.
    pauses = {foreman.train: IDLE_S, foreman.conclude: IDLE_S, foreman.sweep: SWEEP_S}
    for do, pause_s in pauses.items():
        threading.Thread(
            target=_repeat, args=(do, pause_s, stopping.is_set, stopping.wait), name=do.__name__, daemon=True
        ).start()
    try:
        # In this thread, since Ray Data that goes on in another while Ray is shut down takes the process with it.
        _repeat(foreman.synthesise, IDLE_S, until, time.sleep)
    except BaseException:
        foreman.give_back()
        raise
    foreman.give_back()
    foreman.wait()


def _repeat(do: Callable[[], bool], pause_s: float, until: Callable[[], bool], rest: Callable[[float], object]) -> None:
    """Do it until ``until``, with rests where there was nothing to do."""
    while not until():
        try:
            idle = not do()
        except StoreUnavailable as error:
            log.warning("%s", error)
            idle = True
        except Exception:
            log.exception("%s", do.__name__)  # Ray is gone; what was claimed has been given back
            idle = True
        if idle:
            rest(pause_s)


@dataclass(frozen=True)
class _RunningTrainer:
    """One that was started."""

    run: TrainingRun
    thread: threading.Thread


@dataclass(frozen=True)
class QueueWorker:
    """Each of ``synthesize``, ``train`` and ``conclude`` is one look at the queue, and says whether there was work."""

    catalog: Catalog
    store: ObjectStore
    settings: Settings
    model_dir: Path
    owner: str = field(default_factory=lambda: f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}")
    """A name that no other foreman has, and that tells an operator where it runs."""
    trainers: list[_RunningTrainer] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set once work is being given back: nothing more is taken up."""

    def give_back(self) -> None:
        """Release whatever is in work, and have the trainers end."""
        self.stopping.set()
        for trainer in self.trainers:
            trainer.run.stop()
        for owner in (self.owner, *(trainer.run.owner for trainer in self.trainers)):
            with suppress(StoreUnavailable):
                self.catalog.release(self.catalog.held_by(owner), owner)

    def wait(self) -> None:
        """Until the trainers have ended."""
        for trainer in self.trainers:
            trainer.thread.join(ENDING_S)

    def synthesise(self) -> bool:
        with self._claimed(QueueStage.SYNTHESIS, SYNTHESIS_BATCH) as cohort:
            self._synthesise(self._each(cohort, self._accept))
            return bool(cohort)

    def train(self) -> bool:
        """Start a trainer for each base and shape that is wanted more than the running ones can take."""
        limits = self.settings.consolidation
        self.trainers[:] = [trainer for trainer in self.trainers if trainer.thread.is_alive()]
        for demand in self.catalog.training_demand(limits.max_concurrent_per_tenant):
            same = sum(trainer.run.shape == demand.shape for trainer in self.trainers)
            if demand.base != self.settings.base or len(self.trainers) >= limits.max_trainers:
                continue
            if demand.waiting > same * limits.cohort_size:
                owner = f"{self.owner}-trainer-{secrets.token_hex(4)}"
                run = TrainingRun(demand.shape, owner, self.settings, self.model_dir)
                thread = threading.Thread(target=self._run_trainer, args=(run,), name=owner, daemon=True)
                self.trainers.append(_RunningTrainer(run, thread))
                thread.start()
        return False

    def conclude(self) -> bool:
        with self._claimed(QueueStage.CONCLUSION, self.settings.consolidation.cohort_size) as cohort:
            self._each(cohort, self._conclude)
            return bool(cohort)

    def sweep(self) -> bool:
        checkpoint.sweep(self.catalog, self.store)
        return False

    @contextmanager
    def _claimed(self, stage: QueueStage, limit: int) -> Iterator[list[Consolidation]]:
        """What is claimed for a stage, held meanwhile, and given back at the end unless it was handed over or ended."""
        limits = self.settings.consolidation
        cohort = self.catalog.claim(
            self.owner, stage, limit=limit, lease_s=limits.lease_s, tenant_limit=limits.max_concurrent_per_tenant
        )
        with LeaseHolder(self.catalog, self.owner, limits.lease_s, [job.id for job in cohort]):
            yield cohort

    def _accept(self, job: Consolidation) -> None:
        if job.base != self.settings.base:
            raise InvalidInput(
                f"base model {job.base!r} is not the one that is up, {self.settings.base!r}: submit it again"
            )
        self.settings.check_recipe(job.recipe)
        self.catalog.advance(job.id, self.owner, ConsolidationState.SYNTHESISING)

    def _synthesise(self, jobs: Sequence[Consolidation]) -> None:
        """All at once. Where that goes wrong, by halves, until the one is alone with which it does."""
        if not jobs:
            return
        try:
            holdout = self.settings.consolidation.holdout
            reports = synthesize(jobs, self.store, holdout, self.settings.synthesis, self.model_dir)
        except StoreUnavailable:
            raise
        except Exception as error:
            if not _ray_works():
                raise
            log.exception("synthesis of %s", ", ".join(job.id for job in jobs))
            half = len(jobs) // 2
            if not half:
                self._fail([jobs[0].id], self.owner, _unexpected(error))
                return
            self._synthesise(jobs[:half])
            self._synthesise(jobs[half:])
        else:
            self._each(jobs, lambda job: self._enter_training(job, reports[job.id].failure))

    def _enter_training(self, job: Consolidation, failure: str | None) -> None:
        if failure is not None:
            raise InvalidInput(failure)
        self.catalog.hand_over(job.id, self.owner, ConsolidationState.TRAINING)

    def _run_trainer(self, run: TrainingRun) -> None:
        """Until it ends. What it had in hand when it broke off is given back; the attempts at each are counted."""
        try:
            train(run)
        except StoreUnavailable as error:
            log.warning("%s", error)
        except Exception as error:
            if self.stopping.is_set():
                return  # Ray was shut down under it, which is nobody's fault
            log.exception("trainer %s broke off", run.owner)
            if isinstance(error, CannotStart):
                self._fail_wanted(run, str(error))
        else:
            return
        with suppress(StoreUnavailable):
            self.catalog.release(self.catalog.held_by(run.owner), run.owner, died=True)
        time.sleep(RETRY_S)

    def _fail_wanted(self, run: TrainingRun, reason: str) -> None:
        """What a trainer was started for that could not start: it would wait for ever."""
        limits = self.settings.consolidation
        with suppress(StoreUnavailable):
            wanted = self.catalog.claim(
                run.owner,
                QueueStage.TRAINING,
                base=self.settings.base,
                shape=run.shape,
                limit=limits.cohort_size,
                lease_s=limits.lease_s,
                tenant_limit=limits.max_concurrent_per_tenant,
            )
            self._fail([job.id for job in wanted], run.owner, reason)

    def _conclude(self, job: Consolidation) -> None:
        """Gate, then reject or publish. Repeated, it comes to the same digest: nothing in it depends on the clock."""
        candidate = checkpoint.candidate(self.store, job.id)
        verdict = judge(candidate.scores, self.settings.consolidation.gate)
        if verdict.passed:
            self._publish(job, candidate, verdict)
        else:
            self.catalog.reject(job.id, self.owner, verdict)
        self.store.delete(keys.checkpoints(job.id))

    def _publish(self, job: Consolidation, candidate: checkpoint.Candidate, verdict: GateVerdict) -> None:
        revision = basemodel.revision(self.model_dir)
        manifest = self._manifest(job, verdict, revision)
        files = AdapterFiles(candidate.weights, candidate.config, manifest.to_bytes())
        digest = adapters.publish(self.store, job.instance.tenant, files)
        self.store.put(keys.memory(job.instance, digest), candidate.memory)
        self.catalog.publish(job.id, self.owner, digest=digest, verdict=verdict, base_revision=revision)

    def _manifest(self, job: Consolidation, verdict: GateVerdict, revision: str) -> Manifest:
        return Manifest(
            instance=str(job.instance),
            base=job.base,
            base_revision=revision,
            parent=job.parent,
            consolidation=job.id,
            training_data=job.batches,
            recipe=job.recipe,
            verdict=verdict,
            libraries=_versions(),
        )

    def _each(self, cohort: Sequence[Consolidation], do: Callable[[Consolidation], None]) -> list[Consolidation]:
        """Do it for each; return those for which it worked out. What is wrong with one fails that one."""
        done = []
        for job in cohort:
            try:
                do(job)
            except Conflict:
                continue  # cancelled, or another's by now
            except LooperError as error:
                if isinstance(error, StoreUnavailable) and not isinstance(error, StoreFull):
                    raise
                self._fail([job.id], self.owner, str(error))
            except Exception as error:
                log.exception("consolidation %s of %s", job.id, job.instance)
                self._fail([job.id], self.owner, _unexpected(error))
            else:
                done.append(job)
        return done

    def _fail(self, ids: Sequence[str], owner: str, reason: str) -> None:
        """Fail those that ``owner`` still holds."""
        for id in ids:
            with suppress(Conflict):
                self.catalog.fail(id, owner, reason)
            self.store.delete(keys.checkpoints(id))


def _ray_works() -> bool:
    """Whether a task comes back. Where none does, what goes wrong is nobody's fault."""
    try:
        ray.get(ray.remote(num_cpus=0)(_nothing).remote(), timeout=60)
    except Exception:  # Ray has many, for one and the same thing
        return False
    return True


def _nothing() -> None:
    pass


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}".splitlines()[0] + "; see the foreman's log"


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}
