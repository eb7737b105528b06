"""Trajectories survive Arrow and Parquet unchanged, and equal trajectories give equal bytes."""

from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.platform.domain.trajectory import Outcome, Step, ToolCall, Trajectory
from looper.platform.trajectories.table import SCHEMA, from_parquet, from_table, to_parquet, to_table

TEXT = st.text(max_size=20)
CALLS = st.lists(st.builds(ToolCall, id=TEXT, name=TEXT, arguments=TEXT), max_size=3).map(tuple)
STEPS = st.builds(
    Step,
    source=st.sampled_from(["system", "developer", "user", "agent", "tool"]),
    content=TEXT,
    reasoning=TEXT,
    tool_calls=CALLS,
    call_id=st.none() | TEXT,
    requestor=st.sampled_from(["agent", "user"]),
    timestamp=st.none() | TEXT,
)
OUTCOMES = st.builds(
    Outcome, success=st.none() | st.booleans(), reward=st.none() | st.floats(allow_nan=False), detail=TEXT
)
TRAJECTORIES = st.builds(
    Trajectory.create,
    task_id=TEXT,
    format=TEXT,
    steps=st.lists(STEPS, max_size=4).map(tuple),
    outcome=OUTCOMES,
    tools=st.none() | TEXT,
)


def make_trajectory(answer: str) -> Trajectory:
    return Trajectory.create(task_id="t", format="openai_chat", steps=(Step(source="agent", content=answer),))


@given(trajectories=st.lists(TRAJECTORIES, max_size=4))
@settings(deadline=None)
def test_round_trip(trajectories: list[Trajectory]) -> None:
    assert from_table(to_table(trajectories)) == trajectories
    assert from_parquet(to_parquet(trajectories)) == trajectories


def test_the_schema_does_not_depend_on_the_rows() -> None:
    assert to_table([]).schema == to_table([make_trajectory("a")]).schema == SCHEMA


def test_batches_concatenate_and_additional_columns_are_ignored() -> None:
    table = pa.concat_tables([to_table([make_trajectory("a")]), to_table([make_trajectory("b")])])
    wider = table.append_column("instance", pa.array(["t/i"] * 2))
    assert from_table(wider) == [make_trajectory("a"), make_trajectory("b")]


def test_the_bytes_are_deterministic() -> None:
    one, other = [make_trajectory("a"), make_trajectory("b")], [make_trajectory("b"), make_trajectory("a")]
    assert to_parquet(one) == to_parquet(iter(one))
    assert to_parquet(one) != to_parquet(other)


def test_many_rows_make_several_row_groups() -> None:
    trajectories = [make_trajectory(str(n)) for n in range(1100)]
    content = to_parquet(trajectories)
    assert pa.parquet.ParquetFile(pa.BufferReader(content)).num_row_groups == 3
    assert from_parquet(content) == trajectories


def test_a_file_of_a_version_that_kept_no_reasoning_can_be_read() -> None:
    trajectory = make_trajectory("a")
    table = to_table([trajectory])
    steps = [[{key: value for key, value in step.items() if key != "reasoning"} for step in table["steps"][0].as_py()]]
    fields = [field for field in SCHEMA.field("steps").type.value_type if field.name != "reasoning"]
    index = SCHEMA.get_field_index("steps")
    old = table.set_column(index, "steps", pa.array(steps, pa.list_(pa.struct(fields))))
    file = BytesIO()
    pq.write_table(old, file)
    assert from_parquet(file.getvalue()) == [trajectory]


def test_an_episode_without_reasoning_keeps_the_id_that_it_always_had() -> None:
    step = Step(source="user", content="a")
    plain = Trajectory.create(task_id="t", format="f", steps=(step,))
    assert plain.id == "aac2b7176a231a478a2f12645d151106"
    thinking = Trajectory.create(task_id="t", format="f", steps=(step.model_copy(update={"reasoning": "b"}),))
    assert thinking.id != plain.id
