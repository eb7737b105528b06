"""Whole tasks in groups that fit into memory: which there are, and what is made of each.

Nobody sorts the drafts: they stay in the blocks in which they were read, and who works on a group picks out of its
instance's blocks, one after another, what belongs to it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import ray

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.output_files import PARTS, contents, divide
from looper.jobs.synthesis.output.publish import Publisher
from looper.jobs.synthesis.pipeline.draft_rows import Row, draft_of, place_of
from looper.jobs.synthesis.pipeline.stages import TaskDrafts, together
from looper.jobs.synthesis.stages.credit import Habits
from looper.jobs.synthesis.stages.task_leaks import TaskRequest, alike, one_name, words
from looper.platform.objectstore import ObjectStore, keys

GROUP = 1024
"""About how many trajectories are worked on together: whole tasks, in memory at once."""

WRITERS = 4
"""Groups of a share that are written to the store while others are worked on: it is mostly waited for."""


@dataclass
class InstanceAggregate:
    """What the blocks of a consolidation add up to."""

    habits: Habits = field(default_factory=Habits.none)
    tasks: set[tuple[str, TaskRequest]] = field(default_factory=set)
    count: int = 0
    failures: list[str] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    """Where its drafts are."""


@dataclass(frozen=True)
class InstanceSummary:
    """What the whole of an instance's episodes says: about each of them, and how they are divided."""

    habits: Habits
    names: Mapping[str, str]
    count: int
    failure: str | None
    blocks: tuple[int, ...]
    """Where its drafts are."""

    @property
    def groups(self) -> int:
        return max(1, ceil(self.count / GROUP))

    def groups_of(self, rows: pa.Table) -> Any:
        """The group of each of the instance's ``rows``, as an array."""
        groups = rows["place"].to_numpy() % self.groups
        for at in np.flatnonzero(pc.is_in(rows["task"], pa.array([*self.names], pa.string())).to_numpy()):
            groups[at] = place_of(self.names[rows["task"][at].as_py()]) % self.groups
        return groups


def aggregate_block(row: Row, blocks: Any) -> Row:
    """What the drafts of one block add to what is known, by their consolidations."""
    block: pa.Table = ray.get(ray.get(blocks)[row["block"]])
    by: defaultdict[str, list[Row]] = defaultdict(list)
    for each in block.select(["consolidation", "task", "asked", "worked", "failure"]).to_pylist():
        by[each["consolidation"]].append(each)
    sums = [
        {
            "consolidation": id,
            "habits": Habits.of(row["worked"] for row in some if row["worked"]).to_json(),
            "tasks": sorted({(row["task"], *row["asked"]) for row in some if row["task"]}),
            "count": sum(row["task"] is not None for row in some),
            "failures": [row["failure"] for row in some if row["failure"]],
        }
        for id, some in by.items()
    ]
    return {"block": row["block"], "sums": orjson.dumps(sums)}


def merge_aggregates(sums: Iterable[Row]) -> dict[str, InstanceAggregate]:
    """What is known of each consolidation from the sums of its blocks."""
    found: defaultdict[str, InstanceAggregate] = defaultdict(InstanceAggregate)
    for row in sums:
        for some in orjson.loads(row["sums"]):
            of = found[some["consolidation"]]
            of.habits += Habits.from_json(some["habits"])
            of.tasks.update((task, TaskRequest(same, marks)) for task, same, marks in some["tasks"])
            of.count += some["count"]
            of.failures += some["failures"]
            of.blocks.append(row["block"])
    return found


def collect_texts(row: Row, blocks: Any, doubt: Any) -> Row:
    """The words of the tasks in one block that are in ``doubt``, by their consolidations; no other draft is read."""
    block: pa.Table = ray.get(ray.get(blocks)[row["block"]])
    tasks: Mapping[str, Collection[str]] = ray.get(doubt)
    light = block.select(["consolidation", "task", "asked"]).to_pylist()
    found = {
        (
            each["consolidation"],
            each["task"],
            TaskRequest(*each["asked"]).marks,
            words(draft_of(block["draft"][at].as_py())),
        )
        for at, each in enumerate(light)
        if each["task"] in tasks.get(each["consolidation"], ())
    }
    return {"said": orjson.dumps(sorted(found))}


def summarize(
    ids: Iterable[str], sums: Mapping[str, InstanceAggregate], said: Iterable[Row]
) -> dict[str, InstanceSummary]:
    """Of each consolidation, from its sums, and from the words of those tasks that may go by several names."""
    spoken: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for row in said:
        for id, task, marks, text in orjson.loads(row["said"]):
            spoken[id].add((task, marks, text))
    found = {}
    for id in ids:
        of = sums.get(id, InstanceAggregate())
        names = one_name(sorted((task, what.same) for task, what in of.tasks), alike(spoken[id]))
        found[id] = InstanceSummary(
            of.habits, names, of.count, min(of.failures, default=None), tuple(sorted(of.blocks))
        )
    return found


def plan_partitions(known: Mapping[str, InstanceSummary]) -> list[list[str]]:
    """The names of all groups, in shares of about ``GROUP`` trajectories."""
    shares: list[list[str]] = [[]]
    size = 0.0
    for id, of in known.items():
        for group in range(of.groups):
            if size >= GROUP:
                shares.append([])
                size = 0
            shares[-1].append(group_name(id, group))
            size += of.count / of.groups
    return shares


def group_name(consolidation: str, group: int) -> str:
    return f"{consolidation}/{group:05d}"


def _part(group: str, what: str) -> str:
    consolidation, _, number = group.partition("/")
    return keys.examples(consolidation, f"parts/{number}.{what}")


def write_partition(
    row: Row, publisher: Publisher, known: Any, blocks: Any, holdout: float, without: tuple[str, ...]
) -> Row:
    """The stages that see whole tasks; what comes of them goes into the store.

    A group that is all of its consolidation is published at once.
    """
    found: Mapping[str, InstanceSummary] = ray.get(known)
    store = publisher.store
    todo = [group for group in row["groups"] if not store.exists(_part(group, PARTS[-1]))]
    drafts = _pick(todo, found, ray.get(blocks))
    with ThreadPoolExecutor(WRITERS) as writers:
        written = []
        for group in todo:
            id = group.partition("/")[0]
            made = dict(zip(PARTS, contents(_work(drafts.pop(group, []), found[id], without)), strict=True))
            if found[id].groups == 1:
                files = divide([made.__getitem__], holdout, found[id].failure)
                written.append(writers.submit(publisher.publish, id, *files))
            else:
                written.append(writers.submit(_put_parts, store, group, made))
        for each in written:
            each.result()
    return {"groups": len(todo)}


def _put_parts(store: ObjectStore, group: str, parts: Mapping[str, bytes]) -> None:
    for what in PARTS:
        store.put(_part(group, what), parts[what])


def _pick(
    groups: Collection[str], known: Mapping[str, InstanceSummary], blocks: Sequence[Any]
) -> dict[str, list[bytes]]:
    """The drafts of ``groups``, as bytes. One block is looked at at a time."""
    by: defaultdict[str, list[int]] = defaultdict(list)
    for id, _, which in (name.partition("/") for name in groups):
        by[id].append(int(which))
    picked: defaultdict[str, list[bytes]] = defaultdict(list)
    for place in sorted({place for id in by for place in known[id].blocks}):
        block: pa.Table = ray.get(blocks[place])
        for id in (id for id in by if place in known[id].blocks):
            mine = pc.and_(pc.equal(block["consolidation"], id), pc.is_valid(block["draft"]))
            at = np.flatnonzero(mine.to_numpy())
            of = known[id].groups_of(block.select(["task", "place"]).take(at))
            for number in by[id]:
                picked[group_name(id, number)] += block["draft"].take(at[of == number]).to_pylist()
    return picked


def _work(found: Iterable[bytes], of: InstanceSummary, without: tuple[str, ...]) -> list[TaskDrafts]:
    by_task: defaultdict[str, list[Draft]] = defaultdict(list)
    for content in found:
        draft = draft_of(content)
        by_task[of.names.get(draft.source.task_id, draft.source.task_id)].append(draft)
    return [together(name, by_task[name], of.habits, of.names, without) for name in sorted(by_task)]


def finish(row: Row, publisher: Publisher, known: Any, holdout: float) -> Row:
    """Put the parts of all groups together, the report last."""
    id = row["id"]
    of: InstanceSummary = ray.get(known)[id]
    parts = [partial(_stored, publisher.store, group_name(id, group)) for group in range(of.groups)]
    publisher.publish(id, *divide(parts, holdout, of.failure))
    publisher.store.delete(keys.examples(id, "parts"))
    return {"id": id}


def _stored(store: ObjectStore, group: str, what: str) -> bytes:
    return store.get(_part(group, what))
