"""The stages that ask a language model, in actors of Ray Data that keep the model loaded.

``run.py`` calls ``LLMStages.run`` after the episode stages. First run the stages that judge single episodes; then those
that compare the episodes of an instance and write files (its rules, and variants of its tasks); then those that make
examples out of episodes, with the rules as hints.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import ray.data

from looper.jobs.synthesis.llm import hindsight, judge, rules
from looper.jobs.synthesis.llm.draft_stages import run_draft_stages
from looper.jobs.synthesis.llm.instance_files import INSTANCE_STAGES, build_instance_files, read_hints, sample_drafts
from looper.jobs.synthesis.llm.model_factory import OpenModel
from looper.jobs.synthesis.llm.offline_vllm import ACTOR_ENV_VARS
from looper.jobs.synthesis.llm.task_variants import first_user_request
from looper.jobs.synthesis.pipeline.draft_rows import (
    BATCH_ROWS,
    DRAFT_SCHEMA,
    Row,
    decode_draft,
    encode_draft,
    to_draft_row,
)
from looper.jobs.synthesis.stages.holdout_split import is_holdout
from looper.platform.objectstore import ObjectStore, keys
from looper.platform.settings import ModelSettings, ModelStage

MAX_INSTANCE_PARTITIONS = 32
"""Maximum number of Ray tasks among which instances are divided. Each task costs tens of milliseconds."""

_JUDGING_STAGES = (judge.STAGE, hindsight.STAGE)
"""These run before the stages that compare episodes, because those need the grades."""


@dataclass(frozen=True)
class LLMStages:
    """The stages with a language model for a cohort of consolidations."""

    settings: ModelSettings
    """The stages that are on, and the model that they ask."""
    open_model: OpenModel
    """Opens the model. Called once in each actor."""
    store: ObjectStore
    """Keeps the model's responses, and receives the files of an instance."""
    tenants: Mapping[str, str]
    """Tenant of each consolidation."""
    holdout: float
    """Share of tasks that is kept from training, and from the stages that compare episodes of an instance."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Options of Ray that keep the actors on the nodes for synthesis."""

    def run(self, drafts: ray.data.Dataset) -> ray.data.Dataset:
        """Run the stages that are on. Rules and variants are written to the store.

        Args:
            drafts: Rows with the columns of ``DRAFT_SCHEMA``.

        Returns:
            Rows with the same columns, with the drafts after the stages.
        """
        stages = self.settings.stages
        if not any(stage in INSTANCE_STAGES for stage in stages):
            return self._run_draft_stages(drafts, stages)
        judging = tuple(stage for stage in stages if stage in _JUDGING_STAGES)
        others = tuple(stage for stage in stages if stage not in (*_JUDGING_STAGES, *INSTANCE_STAGES))
        judged = (self._run_draft_stages(drafts, judging) if judging else drafts).materialize()
        samples = judged.map_batches(
            partial(_sample_block, holdout=self.holdout), batch_format="pyarrow", batch_size=None, **self.where
        )
        num_partitions = min(len(self.tenants), MAX_INSTANCE_PARTITIONS)
        instances = samples.groupby("consolidation", num_partitions=num_partitions)
        self._map_in_one_actor(instances.map_groups, InstanceActor, self).materialize()
        return self._run_draft_stages(judged, others) if others else judged

    def _run_draft_stages(self, drafts: ray.data.Dataset, stages: tuple[ModelStage, ...]) -> ray.data.Dataset:
        map_batches = partial(drafts.map_batches, batch_size=BATCH_ROWS)
        return self._map_in_one_actor(map_batches, EpisodeActor, self, stages)

    def _map_in_one_actor(self, map_function: Any, actor: type, *arguments: Any) -> ray.data.Dataset:
        result: ray.data.Dataset = map_function(
            actor,
            fn_constructor_args=arguments,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            runtime_env={"env_vars": ACTOR_ENV_VARS},
            **self.where,
        )
        return result


class EpisodeActor:
    """Ray Data actor for the stages that are about one episode."""

    def __init__(self, config: LLMStages, stages: tuple[ModelStage, ...]) -> None:
        """Open the model.

        Args:
            config: Model, store and tenants.
            stages: The stages to run.
        """
        self._model = config.open_model()
        self._config = config
        self._stages = stages
        self._hints: dict[str, tuple[str, ...]] = {}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Run the stages on a batch of rows.

        Args:
            rows: Table with the columns of ``DRAFT_SCHEMA``.

        Returns:
            The same rows with changed drafts. Rows without a draft are passed on.
        """
        result = rows.to_pylist()
        by_tenant: defaultdict[str, list[Row]] = defaultdict(list)
        for row in result:
            if row["draft"] is not None:
                by_tenant[self._config.tenants[row["consolidation"]]].append(row)
        for tenant, tenant_rows in by_tenant.items():
            drafts = run_draft_stages(
                [decode_draft(row["draft"]) for row in tenant_rows],
                self._model.with_cache(self._config.store, tenant),
                self._stages,
                hints=[self._read_hints(row["consolidation"]) for row in tenant_rows],
            )
            for row, draft in zip(tenant_rows, drafts, strict=True):
                row.update(to_draft_row(row["consolidation"], draft))
        return pa.Table.from_pylist(result, schema=DRAFT_SCHEMA)

    def _read_hints(self, consolidation: str) -> tuple[str, ...]:
        """Return the rules of the consolidation's instance, or nothing if the rules stage is off."""
        if rules.STAGE not in self._config.settings.stages:
            return ()
        if consolidation not in self._hints:
            key = keys.examples(consolidation, f"{rules.STAGE}.json")
            content = self._config.store.get(key) if self._config.store.exists(key) else None
            self._hints[consolidation] = read_hints(content) if content else ()
        return self._hints[consolidation]


_SAMPLE_SCHEMA = pa.schema(
    [("consolidation", pa.string()), ("drafts", pa.list_(pa.binary())), ("requests", pa.binary())]
)


def _sample_block(rows: pa.Table, holdout: float) -> Iterator[pa.Table]:
    """Yield, for each consolidation in a block, a sample of drafts that are not held out, and all user requests."""
    drafts_of: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows.select(["consolidation", "draft"]).to_pylist():
        if row["draft"] is not None:
            drafts_of[row["consolidation"]].append(decode_draft(row["draft"]))
    samples = []
    for consolidation, drafts in drafts_of.items():
        sample = sample_drafts(draft for draft in drafts if not is_holdout(draft.source.task_id, holdout))
        samples.append(
            {
                "consolidation": consolidation,
                "drafts": [encode_draft(draft) for draft in sample],
                "requests": orjson.dumps(sorted({first_user_request(draft) for draft in drafts})),
            }
        )
    yield pa.Table.from_pylist(samples, schema=_SAMPLE_SCHEMA)


class InstanceActor:
    """Ray Data actor for the stages that compare all episodes of an instance. They write files to the store."""

    def __init__(self, config: LLMStages) -> None:
        """Open the model.

        Args:
            config: Model, store, tenants and stages.
        """
        self._model = config.open_model()
        self._config = config

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Write the files of one consolidation.

        Args:
            rows: Samples of this consolidation, one row for each block.

        Returns:
            A table with the id of the consolidation.
        """
        consolidation = rows["consolidation"][0].as_py()
        drafts = sample_drafts(decode_draft(content) for sample in rows["drafts"].to_pylist() for content in sample)
        requests = {request for block in rows["requests"].to_pylist() for request in orjson.loads(block)}
        generate = self._model.with_cache(self._config.store, self._config.tenants[consolidation])
        for name, content in build_instance_files(drafts, sorted(requests), generate, self._config.settings.stages):
            self._config.store.put(keys.examples(consolidation, name), content)
        return pa.table({"consolidation": pa.array([consolidation], pa.string())})
