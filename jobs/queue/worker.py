"""The queue worker: it moves consolidations through synthesis, training and the gate.

The head process and ``looper consolidate --wait`` call ``work_queue``. Several queue workers may run, because the
catalog leases each consolidation to one of them. Everything that a queue worker knows is in catalog and store. So
another one resumes after a crash: from the report of synthesis, the checkpoints of training, or the candidate that
waits for its verdict.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import ray

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.checkpoint import delete_orphaned_checkpoints
from looper.jobs.failures import describe_unexpected, fail_consolidation, run_isolated
from looper.jobs.queue.leases import LeaseHolder
from looper.jobs.queue.progress import ProgressCounter
from looper.jobs.queue.publication import Publisher, require_base
from looper.jobs.queue.trainers import TrainerPool
from looper.jobs.synthesis.llm.model_factory import LanguageModel
from looper.jobs.synthesis.pipeline.run import synthesize
from looper.platform.adapters.base_revision import read_base_revision
from looper.platform.adapters.starts import find_start
from looper.platform.catalog import Catalog
from looper.platform.domain.consolidation import Consolidation
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.domain.states import ConsolidationState, QueueStage
from looper.platform.objectstore import ObjectStore
from looper.platform.objectstore.store import PARTIAL_LIFETIME_S
from looper.platform.settings import Settings
from looper.platform.settings.roles import require_role

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
"""Seconds between two looks at an empty queue."""

SWEEP_INTERVAL_S = 60.0
"""Seconds between two searches for checkpoints of consolidations that have ended."""

MAX_SYNTHESIS_BATCH = 256
"""Maximum number of consolidations in one run of Ray Data. A run takes seconds, however little it reads."""

PROCESS = "queue worker"
"""Name of this process in failure reasons."""


OpenModelOf = Callable[[str, BaseModelSource], LanguageModel]
"""Opens the language model of synthesis for a base model, by its name and where it is."""


def work_queue(
    catalog: Catalog,
    store: ObjectStore,
    settings: Settings,
    bases: Mapping[str, BaseModelSource],
    should_stop: Callable[[], bool],
    open_model: OpenModelOf | None = None,
) -> None:
    """Work the queue on the current Ray cluster until told to stop. Then end the trainers and release unfinished work.

    A problem of one consolidation fails that one with the reason. While store or catalog are down, all work waits.

    Args:
        catalog: The catalog.
        store: The object store.
        settings: All settings.
        bases: The base models that the settings name, by name.
        should_stop: Polled in this thread.
        open_model: Opens the language model of synthesis for a base model.
    """
    worker = QueueWorker(catalog, store, settings, bases, open_model)
    stopping = worker.stopping
    # Daemon threads, because they wait for Ray's training runs, which cannot be interrupted. Their work is released
    # below, and the catalog refuses what they write afterwards.
    intervals = {
        worker.start_trainers: POLL_INTERVAL_S,
        worker.conclude: POLL_INTERVAL_S,
        worker.sweep_checkpoints: SWEEP_INTERVAL_S,
        worker.sweep_trainers: SWEEP_INTERVAL_S,
        worker.sweep_partials: PARTIAL_LIFETIME_S,
    }
    for action, interval_s in intervals.items():
        threading.Thread(
            target=_poll, args=(action, interval_s, stopping.is_set, stopping.wait), name=action.__name__, daemon=True
        ).start()
    try:
        # In this thread: if Ray Data still ran in another thread while Ray is shut down, the process would crash.
        _poll(worker.synthesize, POLL_INTERVAL_S, should_stop, time.sleep)
    except BaseException:
        worker.release_all()
        raise
    worker.release_all()
    worker.join()


def _poll(
    action: Callable[[], bool],
    interval_s: float,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], object],
) -> None:
    """Repeat ``action`` until told to stop. Sleep for ``interval_s`` whenever it had nothing to do."""
    while not should_stop():
        try:
            is_idle = not action()
        except StoreUnavailable as error:
            log.warning("%s waits: %s", action.__name__, error.detail)
            is_idle = True
        except Exception:
            log.exception("%s failed; its consolidations are released", action.__name__)  # for instance, Ray is gone
            is_idle = True
        if is_idle:
            sleep(interval_s)


class QueueWorker:
    """Works on the queue.

    ``synthesize``, ``start_trainers``, ``conclude`` and the sweeps look at the queue or the store once each, and return
    whether they found work.

    Attributes:
        owner: Name under which this worker leases consolidations. It is unique, and tells operators where it runs.
        stopping: Set once work is being released. Then no new work is claimed.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        settings: Settings,
        bases: Mapping[str, BaseModelSource],
        open_model: OpenModelOf | None = None,
    ) -> None:
        """Make a queue worker.

        Args:
            catalog: The catalog.
            store: The object store.
            settings: All settings.
            bases: The base models of the settings, by name.
            open_model: Opens the language model of synthesis for a base model. Default: as ``synthesize`` does.
        """
        self.owner = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        self.stopping = threading.Event()
        self._catalog = catalog
        self._store = store
        self._settings = settings
        self._bases = bases
        self._open_model = open_model
        self._trainers = TrainerPool(catalog, store, settings, bases, self.owner, self.stopping.is_set)
        self._publisher = Publisher(catalog, store, self.owner, bases, settings.consolidation.gate)

    def release_all(self) -> None:
        """Release all work of this worker and of its trainers, and tell the trainers to end."""
        self.stopping.set()
        self._trainers.stop()
        for owner in (self.owner, *self._trainers.owners):
            with suppress(StoreUnavailable):
                self._catalog.release(self._catalog.list_leased(owner), owner)

    def join(self) -> None:
        """Wait until the trainers have ended."""
        self._trainers.join()

    def synthesize(self) -> bool:
        """Make training examples of the consolidations that wait for synthesis.

        Returns:
            Whether any waited.
        """
        progress = ProgressCounter()
        with self._claimed(QueueStage.SYNTHESIS, MAX_SYNTHESIS_BATCH, progress) as jobs:
            accepted = self._run_each(jobs, self._accept, progress)
            for base in dict.fromkeys(job.base for job in accepted):
                self._synthesize_or_bisect(base, [job for job in accepted if job.base == base], progress)
            return bool(jobs)

    def start_trainers(self) -> bool:
        """Start the trainers that the queue needs.

        Returns:
            False, since one call starts all of them.
        """
        self._trainers.start_missing()
        return False

    def conclude(self) -> bool:
        """Judge the candidates that wait for the gate, and publish or reject them.

        Returns:
            Whether any waited.
        """
        progress = ProgressCounter()
        with self._claimed(QueueStage.CONCLUSION, self._settings.consolidation.cohort_size, progress) as jobs:
            self._run_each(jobs, self._publisher.conclude, progress)
            return bool(jobs)

    def sweep_partials(self) -> bool:
        """Delete unfinished files of writers that were killed.

        Returns:
            False, since one call deletes all of them.
        """
        self._store.sweep_partials()
        return False

    def sweep_checkpoints(self) -> bool:
        """Delete checkpoints of consolidations that have ended.

        Returns:
            False, since one call deletes all of them.
        """
        delete_orphaned_checkpoints(self._catalog, self._store)
        return False

    def sweep_trainers(self) -> bool:
        """Forget trainers that were not heard of for longer than the start of one may take.

        Returns:
            False, since one call forgets all of them.
        """
        self._catalog.remove_silent_trainers(2 * self._settings.consolidation.start_timeout_s)
        return False

    @contextmanager
    def _claimed(self, stage: QueueStage, limit: int, progress: ProgressCounter) -> Iterator[list[Consolidation]]:
        """Lease consolidations for a stage. At the end, release those that neither moved to another stage nor ended."""
        limits = self._settings.consolidation
        jobs = self._catalog.claim(
            self.owner, stage, limit=limit, lease_s=limits.lease_s, tenant_limit=limits.max_concurrent_per_tenant
        )
        with LeaseHolder(
            self._catalog,
            self.owner,
            limits.lease_s,
            [job.id for job in jobs],
            progress=progress,
            progress_timeout_s=limits.progress_timeout_s,
        ):
            yield jobs

    def _accept(self, job: Consolidation) -> None:
        require_base(job, self._bases)
        self._settings.check_recipe(job.recipe, job.base)
        if job.recipe.start is not None and job.start is None:
            # A trainer looks it up again. This is before synthesis, which may ask a language model for hours.
            revision = read_base_revision(self._bases[job.base].on_this_node(weights=False))
            find_start(self._store, job.recipe, job.base, revision)
        self._catalog.advance(job.id, self.owner, ConsolidationState.SYNTHESISING)

    def _synthesize_or_bisect(self, base: str, jobs: Sequence[Consolidation], progress: ProgressCounter) -> None:
        """Synthesize ``jobs``, all of one base model. If that fails, halve them until the faulty one is alone."""
        if not jobs:
            return
        settings, source = self._settings, self._bases[base]
        try:
            holdout = settings.consolidation.holdout
            reports = synthesize(
                jobs,
                self._store,
                holdout,
                settings.synthesis,
                source,
                open_model=partial(self._open_model, base, source) if self._open_model else None,
                on_progress=progress.advance,
                stall_timeout_s=self._settings.consolidation.progress_timeout_s,
                resources=require_role(settings.roles.data),
            )
        except StoreUnavailable:
            raise
        except Exception as error:
            progress.advance()
            if not _is_ray_working():
                raise
            log.exception("synthesis failed for %s", ", ".join(job.id for job in jobs))
            half = len(jobs) // 2
            if not half:
                self._fail(jobs[0].id, describe_unexpected(error, PROCESS))
                return
            self._synthesize_or_bisect(base, jobs[:half], progress)
            self._synthesize_or_bisect(base, jobs[half:], progress)
        else:
            self._run_each(jobs, lambda job: self._enter_training(job, reports[job.id].failure), progress)

    def _enter_training(self, job: Consolidation, failure: str | None) -> None:
        if failure is not None:
            raise InvalidInput(failure)
        self._catalog.hand_over(job.id, self.owner, ConsolidationState.TRAINING)

    def _run_each(
        self, jobs: Sequence[Consolidation], action: Callable[[Consolidation], None], progress: ProgressCounter
    ) -> list[Consolidation]:
        """Call ``action`` for each of ``jobs``, and fail those that raise an error. Return the others."""

        def succeeds(job: Consolidation) -> bool:
            action(job)
            progress.advance()
            return True

        return [
            job
            for job in jobs
            if run_isolated(job, partial(succeeds, job), partial(self._fail, job.id), process=PROCESS)
        ]

    def _fail(self, id: str, reason: str) -> None:
        fail_consolidation(self._catalog, self._store, id, self.owner, reason)


def _is_ray_working() -> bool:
    """Return whether Ray runs a task. If it does not, no consolidation is to blame for an error."""
    try:
        ray.get(ray.remote(num_cpus=0)(_do_nothing).remote(), timeout=60)
    except Exception:  # Ray reports the loss of its cluster with many types
        return False
    return True


def _do_nothing() -> None:
    pass
