"""Files of windows: what was written is read, merged and counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.data.window_table import (
    ExampleWindow,
    WindowTable,
    count_windows,
    merge_windows,
    read_task_ids,
    read_windows,
    write_windows,
)
from looper.platform.domain.errors import InvalidInput

TASKS = ("a", "b", "c")


@st.composite
def rows(draw: st.DrawFn) -> ExampleWindow:
    size = draw(st.integers(1, 5))
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=size, max_size=size))
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=size, max_size=size))
    calls = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=2))
    window = Window.of(tokens, weights, calls)
    return ExampleWindow(
        window, draw(st.sampled_from(["1", "2"])), draw(st.sampled_from(TASKS)), draw(st.none() | st.text())
    )


TABLES = st.builds(
    WindowTable,
    st.lists(rows(), max_size=4),
    st.just("r"),
    st.dictionaries(st.sampled_from(TASKS), st.dictionaries(st.text(max_size=3), st.integers(1, 9), min_size=1)),
    st.dictionaries(st.sampled_from(TASKS), st.integers(1, 9)),
)


@given(table=TABLES)
@settings(deadline=None)
def test_what_was_written_is_read(table: WindowTable) -> None:
    content = write_windows(table)
    assert read_windows(content, "r") == table
    assert write_windows(table) == content
    assert read_task_ids(content) == {row.task_id for row in table.rows}


@given(tables=st.lists(TABLES, min_size=1, max_size=3))
@settings(deadline=None)
def test_merged_files_have_the_wanted_tasks(tables: list[WindowTable]) -> None:
    merged = read_windows(merge_windows(map(write_windows, tables), lambda task: task != "b"), "r")
    assert merged.rows == [row for table in tables for row in table.rows if row.task_id != "b"]
    assert "b" not in merged.left_out_by_task
    assert merged.cropped_by_task.keys() == {task for table in tables for task in table.cropped_by_task} - {"b"}


@given(table=TABLES)
@settings(deadline=None)
def test_counts_are_those_of_the_windows(table: WindowTable) -> None:
    counts = count_windows(write_windows(table))
    assert counts.windows == len(table.rows)
    assert sorted(counts.tokens_by_example) == sorted(
        sum(len(row.window) for row in example) for example in table.by_example()
    )
    assert counts.divided == sum(len(example) > 1 for example in table.by_example())
    assert counts.targets == sum(int((row.window.weights > 0).sum()) for row in table.rows)
    assert (counts.left_out, counts.cropped) == (table.left_out, table.cropped)


def test_tokens_of_another_base_model_are_refused() -> None:
    with pytest.raises(InvalidInput, match="encoded for base revision r, and the base model is at revision s: submit"):
        read_windows(write_windows(WindowTable([], "r")), "s")
