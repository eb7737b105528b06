"""Encoding a long episode takes time in proportion to its length.

``pytest -s -m bench tests/basemodel/test_long_episode.py`` prints it for each chat template.
"""

import json
from pathlib import Path
from time import process_time

import pytest

from looper.jobs.consolidation.data.encode import ExampleEncoder
from looper.platform.domain.example import Example, Turn
from looper.platform.domain.recipe import Recipe
from looper.platform.domain.trajectory import ToolCall
from tests.basemodel.histories import TOOLS
from tests.basemodel.test_parity import TEACHABLE
from tests.template_bases import prepared_base


def make_episode(turns: int) -> Example:
    """Make an episode whose agent calls a tool in each of its turns."""
    said = [Turn(role="system", content="You find orders."), Turn(role="user", content="Find them all.")]
    for number in range(turns):
        call = ToolCall(id=f"call{number:05d}", name="find_order", arguments=json.dumps({"id": number}))
        said.append(Turn(role="assistant", content="", tool_calls=(call,), weight=1.0))
        said.append(Turn(role="tool", content=f"order {number} is on its way", call_id=call.id))
    return Example(id="e", trajectory_id="t", task_id="t", turns=tuple(said), tools=json.dumps(TOOLS[:1]))


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TEACHABLE)
def test_time_grows_with_the_length(name: str, tmp_path: Path) -> None:
    encoder = ExampleEncoder.open(prepared_base(tmp_path, name), Recipe().max_seq_length)
    encoder.encode(make_episode(10))
    for turns in (800, 10_000):
        episode, start = make_episode(turns), process_time()
        windows = encoder.encode(episode)
        print(f"{name}: {turns} turns, {len(windows)} windows, {process_time() - start:.2f} s", flush=True)
        assert windows
