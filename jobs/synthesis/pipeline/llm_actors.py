"""The stages that ask a model, in workers of Ray Data that keep it.

First what judges single episodes; then what several of an instance say together, its rules and variants of its tasks;
then what makes examples of them, with the rules for hints.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import ray.data

from looper.jobs.synthesis.llm.draft_stages import improve
from looper.jobs.synthesis.llm.instance_files import RULES, SHARED, files, hints, sample
from looper.jobs.synthesis.llm.model_factory import open_model
from looper.jobs.synthesis.llm.offline_vllm import ENVIRONMENT
from looper.jobs.synthesis.llm.task_variants import request_of
from looper.jobs.synthesis.pipeline.draft_rows import AT_ONCE, DRAFTS, Row, draft_of, draft_row, to_bytes
from looper.jobs.synthesis.stages.holdout_split import is_holdout
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import ModelSettings, ModelStage

MOST_TASKS = 32
"""Among which instances are shared out. Each costs tens of milliseconds."""

_JUDGING = ("judge", "hindsight")


@dataclass(frozen=True)
class LLMStages:
    """Who is asked for whom, and where what was answered is kept."""

    settings: ModelSettings
    model_dir: Path | None
    store: ObjectStore
    tenants: Mapping[str, str]
    """Of each consolidation."""
    holdout: float
    """Share of tasks that is kept from training, and from what is said together."""

    def ask(self, drafts: ray.data.Dataset) -> ray.data.Dataset:
        """``drafts`` after the stages that are on; rules and variants go into the store."""
        stages = self.settings.stages
        together = [stage for stage in stages if stage in SHARED]
        if not together:
            return self._improve(drafts, stages)
        judging = tuple(stage for stage in stages if stage in _JUDGING)
        rest = tuple(stage for stage in stages if stage not in (*_JUDGING, *SHARED))
        judged = (self._improve(drafts, judging) if judging else drafts).materialize()
        some = judged.map_batches(partial(_some_of_each, holdout=self.holdout), batch_format="pyarrow", batch_size=None)
        groups = some.groupby("consolidation", num_partitions=min(len(self.tenants), MOST_TASKS))
        self._in_one_actor(groups.map_groups, InstanceActor, self).materialize()
        return self._improve(judged, rest) if rest else judged

    def _improve(self, drafts: ray.data.Dataset, stages: tuple[ModelStage, ...]) -> ray.data.Dataset:
        return self._in_one_actor(partial(drafts.map_batches, batch_size=AT_ONCE), EpisodeActor, self, stages)

    def _in_one_actor(self, run: Any, kind: type, *arguments: Any) -> ray.data.Dataset:
        found: ray.data.Dataset = run(
            kind,
            fn_constructor_args=arguments,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            runtime_env={"env_vars": ENVIRONMENT},
        )
        return found


class EpisodeActor:
    """The stages that are about one episode."""

    def __init__(self, asking: LLMStages, stages: tuple[ModelStage, ...]) -> None:
        self._model = open_model(asking.settings, asking.model_dir or Path())
        self._asking = asking
        self._stages = stages
        self._hints: dict[str, tuple[str, ...]] = {}

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = rows.to_pylist()
        by_tenant: defaultdict[str, list[Row]] = defaultdict(list)
        for row in found:
            if row["draft"] is not None:
                by_tenant[self._asking.tenants[row["consolidation"]]].append(row)
        for tenant, some in by_tenant.items():
            ask = self._model.remembering(self._asking.store, tenant)
            drafts = improve(
                [draft_of(row["draft"]) for row in some],
                ask,
                self._stages,
                hints=[self._of(row["consolidation"]) for row in some],
            )
            for row, draft in zip(some, drafts, strict=True):
                row.update(draft_row(row["consolidation"], draft))
        return pa.Table.from_pylist(found, schema=DRAFTS)

    def _of(self, consolidation: str) -> tuple[str, ...]:
        """The rules of its instance, if they were asked for."""
        if RULES not in self._asking.settings.stages:
            return ()
        if consolidation not in self._hints:
            key = keys.examples(consolidation, f"{RULES}.json")
            content = self._asking.store.get(key) if self._asking.store.exists(key) else None
            self._hints[consolidation] = hints(content) if content else ()
        return self._hints[consolidation]


_SOME = pa.schema([("consolidation", pa.string()), ("drafts", pa.list_(pa.binary())), ("requests", pa.binary())])


def _some_of_each(rows: pa.Table, holdout: float) -> Iterator[pa.Table]:
    """Of each consolidation, the drafts of one block that may be asked about, and all that was requested."""
    drafts: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows.select(["consolidation", "draft"]).to_pylist():
        if row["draft"] is not None:
            drafts[row["consolidation"]].append(draft_of(row["draft"]))
    found = [
        {
            "consolidation": id,
            "drafts": [
                to_bytes(draft)
                for draft in sample(each for each in some if not is_holdout(each.source.task_id, holdout))
            ],
            "requests": orjson.dumps(sorted({request_of(draft) for draft in some})),
        }
        for id, some in drafts.items()
    ]
    yield pa.Table.from_pylist(found, schema=_SOME)


class InstanceActor:
    """The stages that are about all episodes of an instance: their files go into the store."""

    def __init__(self, asking: LLMStages) -> None:
        self._model = open_model(asking.settings, asking.model_dir or Path())
        self._asking = asking

    def __call__(self, rows: pa.Table) -> pa.Table:
        id = rows["consolidation"][0].as_py()
        drafts = sample(draft_of(content) for some in rows["drafts"].to_pylist() for content in some)
        requests = {request for some in rows["requests"].to_pylist() for request in orjson.loads(some)}
        ask = self._model.remembering(self._asking.store, self._asking.tenants[id])
        for name, content in files(drafts, sorted(requests), ask, self._asking.settings.stages):
            self._asking.store.put(keys.examples(id, name), content)
        return pa.table({"consolidation": pa.array([id], pa.string())})
