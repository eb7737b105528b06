"""Contexts in the files of a consolidation: the report counts them, and no task is on both sides."""

import orjson

from looper.gym.generate import record_episodes
from looper.gym.workplaces import DISPATCH
from looper.jobs.synthesis.output.example_table import read_examples
from looper.jobs.synthesis.output.output_files import synthesize_in_memory
from looper.jobs.synthesis.output.report_page import render_report_page
from looper.platform.domain.context_shares import ContextShares
from looper.platform.domain.example import find_context
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.readers.openai_chat import READER

NOTES = "\n<notes>\n- Dock by goods: fish -> ice, timber -> yard, oil -> tank.\n</notes>"


def read_batch() -> list[Trajectory]:
    """Return the recorded episodes of a workplace. In every fourth one the agent has notes."""
    lines = [orjson.loads(episode.to_jsonl()) for episode in record_episodes(DISPATCH, seed=0)]
    for line in lines[::4]:
        line["messages"][0]["content"] += NOTES
    return [READER.to_trajectory(line) for line in lines]


BATCH = read_batch()


def test_renderings_are_counted_apart_and_stay_on_their_tasks_side() -> None:
    shares = ContextShares(**dict.fromkeys(ContextShares.model_fields, 1.0))
    report, files = synthesize_in_memory([BATCH], 0.28, recipe=Recipe(contexts=shares))
    train, holdout = (read_examples(files[f"{side}.parquet"]) for side in ("train", "holdout"))
    assert report.trajectories == report.train + report.holdout + sum(report.rejected.values())
    assert len(train) + len(holdout) == report.train + report.holdout + sum(report.contexts.values())
    assert set(report.contexts) == set(ContextShares.model_fields)
    assert not {example.task_id for example in train} & {example.task_id for example in holdout}
    assert {find_context(example.id) for example in holdout} == {"", *ContextShares.model_fields}
    page = render_report_page(report, "a")
    assert "<td>with newer note</td>" in page


def test_a_recipe_without_contexts_gives_the_examples_as_they_were_recorded() -> None:
    assert synthesize_in_memory([BATCH], 0.28, recipe=Recipe()) == synthesize_in_memory([BATCH], 0.28)
