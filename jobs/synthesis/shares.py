"""Whole tasks in groups that fit into memory: which there are, and what is made of each.

Nobody sorts the drafts: they stay in the blocks in which they were read, and who works on a group picks out of its
instance's blocks, one after another, what belongs to it.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import ray

from looper.jobs.synthesis.credit import Habits
from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.leaks import one_name
from looper.jobs.synthesis.page import to_html
from looper.jobs.synthesis.parts import PARTS, contents, divide
from looper.jobs.synthesis.pipeline import Task, together
from looper.jobs.synthesis.report import Report
from looper.jobs.synthesis.rows import Row, draft_of, place_of
from looper.platform.objectstore import ObjectStore, keys

GROUP = 1024
"""About how many trajectories are worked on together: whole tasks, in memory at once."""

WRITERS = 4
"""Groups of a share that are written to the store while others are worked on: it is mostly waited for."""


@dataclass(frozen=True)
class Known:
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


def sum_up(row: Row, blocks: Any) -> Row:
    """What the drafts of one block add to what is known, by their consolidations."""
    block: pa.Table = ray.get(ray.get(blocks)[row["block"]])
    by: defaultdict[str, list[Row]] = defaultdict(list)
    for each in block.select(["consolidation", "task", "asked", "worked", "failure"]).to_pylist():
        by[each["consolidation"]].append(each)
    sums = [
        {
            "consolidation": id,
            "habits": Habits.of(row["worked"] for row in some if row["worked"]).to_json(),
            "tasks": sorted({(row["task"], row["asked"]) for row in some if row["task"]}),
            "count": sum(row["task"] is not None for row in some),
            "failures": [row["failure"] for row in some if row["failure"]],
        }
        for id, some in by.items()
    ]
    return {"block": row["block"], "sums": orjson.dumps(sums)}


def know(ids: Iterable[str], sums: Iterable[Row]) -> dict[str, Known]:
    """Of each consolidation, from what its blocks add."""
    habits: defaultdict[str, Habits] = defaultdict(Habits.none)
    tasks: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    counts: Counter[str] = Counter()
    failures: defaultdict[str, list[str]] = defaultdict(list)
    blocks: defaultdict[str, list[int]] = defaultdict(list)
    for row in sums:
        for found in orjson.loads(row["sums"]):
            id = found["consolidation"]
            habits[id] += Habits.from_json(found["habits"])
            tasks[id].update((task, what) for task, what in found["tasks"])
            counts[id] += found["count"]
            failures[id] += found["failures"]
            blocks[id].append(row["block"])
    return {
        id: Known(
            habits[id],
            one_name(sorted(tasks[id])),
            counts[id],
            min(failures[id], default=None),
            tuple(sorted(blocks[id])),
        )
        for id in ids
    }


def share_out(known: Mapping[str, Known]) -> list[list[str]]:
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


def write_share(row: Row, store: ObjectStore, known: Any, blocks: Any, holdout: float, without: tuple[str, ...]) -> Row:
    """The stages that see whole tasks; what comes of them goes into the store.

    A group that is all of its consolidation is published at once.
    """
    found: Mapping[str, Known] = ray.get(known)
    todo = [group for group in row["groups"] if not store.exists(_part(group, PARTS[-1]))]
    drafts = _pick(todo, found, ray.get(blocks))
    with ThreadPoolExecutor(WRITERS) as writers:
        written = []
        for group in todo:
            id = group.partition("/")[0]
            made = dict(zip(PARTS, contents(_work(drafts.pop(group, []), found[id], without)), strict=True))
            if found[id].groups == 1:
                files = divide([made.__getitem__], holdout, found[id].failure)
                written.append(writers.submit(publish, store, id, *files))
            else:
                written.append(writers.submit(_put_parts, store, group, made))
        for each in written:
            each.result()
    return {"groups": len(todo)}


def _put_parts(store: ObjectStore, group: str, parts: Mapping[str, bytes]) -> None:
    for what in PARTS:
        store.put(_part(group, what), parts[what])


def _pick(groups: Collection[str], known: Mapping[str, Known], blocks: Sequence[Any]) -> dict[str, list[bytes]]:
    """The drafts of ``groups``, as bytes. One block is looked at at a time."""
    by: defaultdict[str, list[int]] = defaultdict(list)
    for id, _, group in (name.partition("/") for name in groups):
        by[id].append(int(group))
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


def _work(found: Iterable[bytes], of: Known, without: tuple[str, ...]) -> list[Task]:
    by_task: defaultdict[str, list[Draft]] = defaultdict(list)
    for content in found:
        draft = draft_of(content)
        by_task[of.names.get(draft.source.task_id, draft.source.task_id)].append(draft)
    return [together(name, by_task[name], of.habits, of.names, without) for name in sorted(by_task)]


def finish(row: Row, store: ObjectStore, known: Any, holdout: float) -> Row:
    """Put the parts of all groups together, the report last."""
    id = row["id"]
    of: Known = ray.get(known)[id]
    parts = [partial(_stored, store, group_name(id, group)) for group in range(of.groups)]
    publish(store, id, *divide(parts, holdout, of.failure))
    store.delete(keys.examples(id, "parts"))
    return {"id": id}


def _stored(store: ObjectStore, group: str, what: str) -> bytes:
    return store.get(_part(group, what))


def publish(store: ObjectStore, id: str, report: Report, files: Iterable[tuple[str, bytes]]) -> None:
    for name, content in files:
        store.put(keys.examples(id, name), content)
    store.put(keys.examples(id, "report.html"), to_html(report, id).encode())
    store.put(keys.examples(id, "report.json"), report.model_dump_json().encode())
