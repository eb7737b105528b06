"""Readers never raise: a document is recognized or not, and its episodes are read or rejected."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.platform.domain.trajectory import Trajectory
from looper.platform.trajectories.readers import READERS
from looper.platform.trajectories.rejection import Rejection

KEYS = """messages role content tool_calls function name arguments id tool_call_id traj task_id reward info history
action observation source cause args tool_call_metadata simulations steps message extra results"""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS.split()),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@pytest.mark.parametrize(
    "frame",
    [
        lambda x: {"messages": [x, {"role": "assistant", "content": x, "tool_calls": x}]},
        lambda x: [{"role": x, "content": x, "tool_calls": [x]}],
        lambda x: [{"task_id": 1, "traj": [x], "info": x}, x],
        lambda x: {"info": x, "simulations": [x, {"task_id": "1", "reward_info": x, "messages": [x]}]},
        lambda x: {"history": [{"role": "assistant", "action": "ls", "content": x}, x], "info": x, "replay_config": x},
        lambda x: {"instance_id": x, "history": x},
        lambda x: [{"source": "agent", "action": "run", "args": x, "tool_call_metadata": x}, x],
        lambda x: {"schema_version": "ATIF-v1.4", "steps": [x, {"source": "agent", "observation": x}], "extra": x},
        lambda x: {"schema_version": "ATIF-v1.4", "steps": x, "agent": x, "subagent_trajectories": x},
    ],
    ids=range(9),
)
@given(value=JSON)
def test_no_document_makes_a_reader_raise(frame: Any, value: Any) -> None:
    document = frame(value)
    for reader in READERS.values():
        if reader.recognizes(document):
            for episode in reader.read(document):
                assert isinstance(episode, Trajectory | Rejection)


@given(value=JSON)
def test_no_document_makes_detection_raise(value: Any) -> None:
    assert all(reader.recognizes(value) in (True, False) for reader in READERS.values())
