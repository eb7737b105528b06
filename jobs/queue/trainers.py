"""Keep as many trainers running as the queue needs. The queue worker polls it.

Each trainer is a Ray Train run (``training_run``) in a thread of its own, because the run blocks its thread.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from looper.basemodel.node_copies import BaseModelSource
from looper.jobs.consolidation.training.training_run import (
    CannotStart,
    TrainingRun,
    describe_training_wait,
    run_training,
)
from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, StoreUnavailable
from looper.platform.domain.recipe import TrainerShape
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0
"""Seconds that a trainer has to end after it was told to stop. Ray takes about 12 s."""

EXPECTED_START = timedelta(seconds=10)
"""Time within which Ray places a trainer, if there is room for it."""

RESTART_DELAY_S = 2.0
"""Seconds after a trainer failed before another one takes its place. If it could not start, the delay doubles."""

MAX_RESTART_DELAY_S = 300.0
"""Maximum of these delays, in seconds."""


@dataclass(frozen=True)
class _RunningTrainer:
    """A training run and the thread that runs it."""

    run: TrainingRun
    thread: threading.Thread
    started_at: datetime


class TrainerPool:
    """The trainers that one queue worker has started."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        settings: Settings,
        bases: Mapping[str, BaseModelSource],
        owner: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Make an empty pool.

        Args:
            catalog: Says how many trainers are needed.
            store: Object store.
            settings: All settings.
            bases: The base models of the settings, by name.
            owner: Name of the queue worker. The names of its trainers begin with it.
            is_stopping: Whether the queue worker is releasing its work, so that errors of Ray mean nothing.
        """
        self._catalog = catalog
        self._store = store
        self._settings = settings
        self._bases = bases
        self._owner = owner
        self._is_stopping = is_stopping
        self._trainers: list[_RunningTrainer] = []
        self._ready: set[str] = set()

    @property
    def owners(self) -> list[str]:
        """Names under which the trainers lease consolidations."""
        return [trainer.run.owner for trainer in self._trainers]

    def start_missing(self) -> None:
        """Start a trainer for each base model and shape with more waiting consolidations than its trainers can take."""
        self._trainers[:] = [trainer for trainer in self._trainers if trainer.thread.is_alive()]
        for trainer in self._trainers:
            self._explain_wait(trainer)
        delayed = self._list_delayed()
        for demand in self._catalog.list_training_demand(self._settings.consolidation.max_concurrent_per_tenant):
            if demand.base not in self._settings.base_names:
                continue
            limits = self._settings.for_base(demand.base).consolidation
            shapes = [trainer.run.shape for trainer in self._trainers if trainer.run.settings.base == demand.base]
            if len(shapes) >= limits.max_trainers or (demand.base, demand.shape) in delayed:
                continue
            if demand.waiting > shapes.count(demand.shape) * limits.cohort_size:
                self._start(demand.base, demand.shape)

    def stop(self) -> None:
        """Tell all trainers to save their members, release them and end."""
        with suppress(StoreUnavailable):  # then the trainers notice the same, and end by themselves
            self._catalog.stop_trainers(self._owner)

    def join(self) -> None:
        """Wait until all trainers have ended, at most ``STOP_TIMEOUT_S`` for each."""
        for trainer in self._trainers:
            trainer.thread.join(STOP_TIMEOUT_S)

    def _start(self, base: str, shape: TrainerShape) -> None:
        owner = f"{self._owner}-trainer-{secrets.token_hex(4)}"
        run = TrainingRun(shape, owner, self._settings.for_base(base), self._bases[base])
        self._catalog.add_trainer(owner, self._owner, base, shape)
        thread = threading.Thread(target=self._run, args=(run,), name=owner, daemon=True)
        self._trainers.append(_RunningTrainer(run, thread, datetime.now(UTC)))
        thread.start()

    def _explain_wait(self, trainer: _RunningTrainer) -> None:
        """Record what a trainer waits for that Ray cannot place. Otherwise nobody sees why nothing is trained."""
        run = trainer.run
        if run.owner in self._ready or datetime.now(UTC) - trainer.started_at < EXPECTED_START:
            return
        if self._catalog.is_trainer_ready(run.owner):
            self._ready.add(run.owner)
            return
        with suppress(InvalidInput):  # the run itself says so, below
            needed = describe_training_wait(run.settings)
            reason = f"waits since {trainer.started_at:%F %T} UTC for {needed}" if needed else None
            self._catalog.explain_wait(reason, base=run.settings.base, shape=run.shape)

    def _run(self, run: TrainingRun) -> None:
        """Run a trainer until it ends. If it fails, release its members; those that may be the cause are charged."""
        try:
            self._run_to_the_end(run)
        finally:
            run.remove_folder()
            with suppress(StoreUnavailable):  # then it is removed as one that was not heard of for long
                self._catalog.remove_trainer(run.owner)

    def _run_to_the_end(self, run: TrainingRun) -> None:
        try:
            run_training(run, partial(self._catalog.is_trainer_ready, run.owner))
        except StoreUnavailable as error:
            log.warning("trainer %s stopped: %s", run.owner, error)
        except Exception as error:
            if self._is_stopping():
                return  # Ray was shut down while the trainer ran
            log.exception("trainer %s failed", run.owner)
            if isinstance(error, CannotStart):
                self._delay_next(run, str(error))
            elif isinstance(error, InvalidInput):  # the cluster has lost GPUs since it was started
                self._delay_next(run, f"waits for GPUs: {error.detail}")
        else:
            return
        with suppress(StoreUnavailable):
            run.release_after_death(self._catalog)
        time.sleep(RESTART_DELAY_S)

    def _list_delayed(self) -> set[tuple[str, TrainerShape]]:
        """Return the base models and shapes of which a trainer could not start, and is not yet to be started again."""
        failures = self._catalog.list_trainer_failures()
        if not failures:
            return set()
        now = self._catalog.now()
        return {(failure.base, failure.shape) for failure in failures if failure.retry_at > now}

    def _delay_next(self, run: TrainingRun, reason: str) -> None:
        """Record why a trainer could not start. The cluster lacks something, so no consolidation fails of it."""
        with suppress(StoreUnavailable):
            failure = self._catalog.record_trainer_failure(
                run.settings.base, run.shape, reason, delay_s=RESTART_DELAY_S, max_delay_s=MAX_RESTART_DELAY_S
            )
            if failure.failures == 1:  # the others differ only by the time, and would fill the event log
                self._catalog.explain_wait(reason, base=run.settings.base, shape=run.shape)
