"""The foreman claims cohorts from the queue and takes each through synthesis, training, gate and publication.

Any number of foremen may run: the catalog gives each piece of work to one. All that a foreman knows is in catalog and
store, so that another goes on where it was killed: from the report of synthesis, the checkpoints of training, or the
candidate that awaits its verdict.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from looper.jobs import basemodel
from looper.jobs.consolidation import checkpoint
from looper.jobs.consolidation.train import TrainingBroken, TrainingRun, train
from looper.jobs.gate import judge
from looper.jobs.synthesis.run import synthesise
from looper.platform import adapters
from looper.platform.adapters import AdapterFiles, Manifest
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation, State, Verdict
from looper.platform.domain.errors import Conflict, InvalidInput, LooperError, StoreUnavailable
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import Settings

log = logging.getLogger(__name__)

IDLE_S = 1.0
"""Between two looks at an empty queue."""

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "ray")


def run(catalog: Catalog, store: ObjectStore, settings: Settings, model_dir: Path, stop: threading.Event) -> None:
    """Work the queue on the current Ray until ``stop`` is set; unfinished work is given back then."""
    owner = new_owner()
    while not stop.is_set():
        try:
            idle = not run_once(catalog, store, settings, model_dir, owner, stop)
        except StoreUnavailable as error:
            log.warning("%s", error)
            idle = True
        if idle:
            stop.wait(IDLE_S)


def new_owner() -> str:
    """A name for one foreman that no other has, and that tells an operator where it runs."""
    return f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"


def run_once(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    model_dir: Path,
    owner: str,
    stop: threading.Event | None = None,
) -> list[Consolidation]:
    """Claim one cohort and work on it; return its consolidations as they are afterwards, none if nothing waits.

    ``model_dir`` is the folder of ``settings.base`` that ``looper.jobs.basemodel.prepare`` returned. What goes wrong
    with one consolidation fails that one, with the reason. What is unfinished at the end, because ``stop`` was set, on
    Ctrl-C, or when the store fails (StoreUnavailable is raised), is given back and goes on from there later.
    """
    limits = settings.consolidation
    cohort = catalog.claim(owner, limit=limits.cohort, lease_s=limits.lease_s)
    if not cohort:
        return []
    ids = [job.id for job in cohort]
    foreman = _Foreman(catalog, store, settings, model_dir, owner)
    with _holding(catalog, ids, owner, limits.lease_s, stop or threading.Event()):
        try:
            foreman.work(cohort)
        except LooperError:
            raise
        except Exception as error:
            # Nobody's mistake but ours. Failed, it is reported once; given back, it would be tried for ever.
            log.exception("working on %s", ", ".join(ids))
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            foreman.fail_all(cohort, f"unexpected {what}; see the foreman's log")
    ended = [catalog.consolidation(id) for id in ids]
    for job in ended:
        if job.state.final:
            store.delete(keys.checkpoints(job.id))
    return ended


@contextmanager
def _holding(catalog: Catalog, ids: Sequence[str], owner: str, lease_s: float, stop: threading.Event) -> Iterator[None]:
    """Renew the leases on ``ids`` meanwhile, and give back at the end, or once ``stop`` is set, what has not ended.

    Given back, a training notices at its next report and ends.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(min(lease_s / 3, 1.0)):
            with suppress(StoreUnavailable):  # the next beat may come through; if none does, the lease runs out
                if stop.is_set():
                    catalog.release(ids, owner)
                else:
                    catalog.heartbeat(ids, owner, lease_s=lease_s)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        catalog.release(ids, owner)


@dataclass(frozen=True)
class _Foreman:
    catalog: Catalog
    store: ObjectStore
    settings: Settings
    model_dir: Path
    owner: str

    def work(self, cohort: Sequence[Consolidation]) -> None:
        accepted = self._each(cohort, self._accept)
        reports = synthesise(accepted, self.store, self.settings.consolidation.holdout) if accepted else {}
        trainable = self._each(accepted, lambda job: self._enter_training(job, reports[job.id].failure))
        if trainable:
            self._train(trainable)
        trained = [job for job in trainable if checkpoint.has_candidate(self.store, job.id)]
        # What was cancelled, given back or failed on the way is not ours any more. What still is has been lost by its
        # training run without a word, and given back it would be lost again, for ever.
        self.fail_all([job for job in trainable if job not in trained], "the training run ended without a candidate")
        self._each(trained, self._conclude)

    def _accept(self, job: Consolidation) -> None:
        if job.base != self.settings.base:
            raise InvalidInput(
                f"base model {job.base!r} is not the one that is up, {self.settings.base!r}: submit it again"
            )
        self.settings.check_recipe(job.recipe)
        self.catalog.advance(job.id, self.owner, State.SYNTHESISING)

    def _enter_training(self, job: Consolidation, failure: str | None) -> None:
        if failure is not None:
            raise InvalidInput(failure)
        self.catalog.advance(job.id, self.owner, State.TRAINING)

    def _train(self, cohort: Sequence[Consolidation]) -> None:
        todo = tuple(job for job in cohort if not checkpoint.has_candidate(self.store, job.id))
        if not todo:
            return
        try:
            train(TrainingRun(todo, self.owner, self.settings, self.model_dir))
        except StoreUnavailable:
            raise
        except (LooperError, TrainingBroken) as error:
            log.exception("training of %s", ", ".join(job.id for job in todo))
            self.fail_all(todo, str(error))

    def _conclude(self, job: Consolidation) -> None:
        """Gate, then reject or publish. Repeated, it comes to the same digest: nothing in it depends on the clock."""
        candidate = checkpoint.candidate(self.store, job.id)
        scores = candidate.scores
        verdict = judge(scores.candidate, scores.current, self.settings.consolidation.min_gain)
        if not verdict.passed:
            self.catalog.reject(job.id, self.owner, verdict)
            return
        revision = basemodel.revision(self.model_dir)
        manifest = self._manifest(job, verdict, revision)
        files = AdapterFiles(candidate.weights, candidate.config, manifest.to_bytes())
        digest = adapters.publish(self.store, job.instance.tenant, files)
        self.catalog.publish(job.id, self.owner, digest=digest, verdict=verdict, base_revision=revision)

    def _manifest(self, job: Consolidation, verdict: Verdict, revision: str) -> Manifest:
        return Manifest(
            instance=str(job.instance),
            base=job.base,
            base_revision=revision,
            parent=job.parent,
            consolidation=job.id,
            training_data=job.batches,
            recipe=job.recipe,
            verdict=verdict,
            libraries={name: version(name) for name in LIBRARIES},
        )

    def _each(self, cohort: Sequence[Consolidation], do: Callable[[Consolidation], None]) -> list[Consolidation]:
        """Do it for each; return those for which it worked out. What is wrong with one fails that one."""
        done = []
        for job in cohort:
            try:
                do(job)
            except StoreUnavailable:
                raise
            except Conflict:
                continue  # cancelled, or another's by now
            except LooperError as error:
                self.fail_all([job], str(error))
            else:
                done.append(job)
        return done

    def fail_all(self, cohort: Sequence[Consolidation], reason: str) -> None:
        """Fail those that are still ours."""
        for job in cohort:
            with suppress(Conflict):
                self.catalog.fail(job.id, self.owner, reason)
