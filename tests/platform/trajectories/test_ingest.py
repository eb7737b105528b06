"""Ingestion: what is kept, what is rejected and why, and that nothing is written twice or in part."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from looper.platform.catalog import Catalog
from looper.platform.domain.errors import InvalidInput, NotFound
from looper.platform.domain.names import InstanceName
from looper.platform.objectstore import ObjectStore
from looper.platform.settings import Settings
from looper.platform.trajectories.documents import MAX_LINE_BYTES
from looper.platform.trajectories.ingest import ingest_paths, read_path
from looper.platform.trajectories.report import FileReport
from looper.platform.trajectories.table import from_parquet

INSTANCE = InstanceName("acme", "desk")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(Settings(home=tmp_path / "home"))


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.open(Settings(home=tmp_path / "home"))
    catalog.create_tenant("acme")
    yield catalog
    catalog.close()


def chat(answer: str = "Done.", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Do it."}, {"role": "assistant", "content": answer}], **more}


def lines(*documents: Any) -> bytes:
    return b"".join((d if isinstance(d, bytes) else json.dumps(d).encode()) + b"\n" for d in documents)


def messages(*items: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(items)}


CALL = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "look", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "here"}
ANSWER = {"role": "assistant", "content": "Done."}


def report_of(path: Path, format: str = "auto") -> FileReport:
    [(report, trajectories)] = read_path(path, format)
    assert report.trajectories == report.kept + report.rejected
    assert report.rejected == sum(report.reasons.values())
    assert report.kept == len(trajectories)
    return report


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{not json", "malformed_json"),
        (json.dumps(chat()).encode()[:-5], "malformed_json"),
        (b'{"messages": NaN}', "malformed_json"),
        (b'{"messages": "\\ud800"}', "malformed_json"),
        (b'{"messages": [{"role": "assistant", "content": "\xff\xfe"}]}', "not_utf8"),
        (json.dumps(chat()).encode("utf-16"), "not_utf8"),
        (b"[" * 100_000, "malformed_json"),
        ({"messages": []}, "empty"),
        (messages({"role": "user", "content": "Hello?"}), "empty"),
        (messages({"role": "assistant", "content": " "}), "empty"),
        (messages(CALL), "unanswered_call"),
        (messages(CALL, ANSWER), "unanswered_call"),
        (messages(CALL, {"role": "user", "content": "Well?"}), "unanswered_call"),
        (messages(ANSWER, RESULT), "orphan_result"),
        (messages(CALL, RESULT, RESULT), "orphan_result"),
        (messages(RESULT, CALL), "orphan_result"),
        (messages(ANSWER, {"role": "narrator", "content": "Meanwhile"}), "unknown_role"),
        (messages({"role": "assistant", "content": 7}), "malformed_episode"),
        (messages({"content": "who?"}), "malformed_episode"),
        (messages({"role": "assistant", "tool_calls": [{"id": "c"}]}), "malformed_episode"),
        (chat(reward="high"), "malformed_episode"),
        (chat(tools="[not json"), "malformed_episode"),
        ({"unlike": "the others"}, "malformed_episode"),
        (7, "malformed_episode"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_line_is_rejected_and_the_others_are_kept(tmp_path: Path, bad: Any, reason: str, first: bool) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(lines(bad, chat("a"), chat("b")) if first else lines(chat("a"), b"", bad, chat("b")))
    assert report_of(file) == FileReport(
        path=str(file), format="openai_chat", trajectories=3, kept=2, rejected=1, reasons={reason: 1}
    )


def test_deeply_nested_arguments_reject_their_episode_only(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"in": deep}
    step = {"source": "agent", "tool_calls": [{"tool_call_id": "c", "function_name": "finish", "arguments": deep}]}
    good = {"schema_version": "ATIF-v1.4", "steps": [{"source": "agent", "message": "Hi"}]}
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(lines({"schema_version": "ATIF-v1.4", "steps": [step]}, good))
    assert report_of(file).reasons == {"malformed_episode": 1}


def test_an_episode_may_end_on_a_terminal_tool(tmp_path: Path) -> None:
    finish = {"role": "assistant", "tool_calls": [{"id": "f", "function": {"name": "finish", "arguments": "{}"}}]}
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(lines(messages(CALL, RESULT, finish), messages(finish, ANSWER)))
    assert report_of(file).reasons == {"unanswered_call": 1}


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + lines(chat(), b"", b"  ", chat("b")).rstrip(b"\n"))
    assert report_of(file).kept == 2


def test_a_line_of_50_mb_is_rejected_without_being_held_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    with file.open("wb") as out:
        out.write(lines(chat("a")))
        out.write(b'{"messages": "')
        for _ in range(50):
            out.write(b"x" * 1_000_000)
        out.write(b'"}\n' + lines(chat("b")))
    tracemalloc.start()
    report = report_of(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.kept, report.reasons) == (2, {"too_large": 1})
    assert peak < 2.5 * MAX_LINE_BYTES


def test_ingestion_holds_one_row_group_in_memory(tmp_path: Path, catalog: Catalog, store: ObjectStore) -> None:
    """A file of 40 MB is ingested with far less memory than that."""
    file = tmp_path / "episodes.jsonl"
    with file.open("wb") as out:
        for n in range(4000):
            out.write(lines(chat(f"{n} " + "word " * 2000)))
    # pyarrow imports other packages on first use, which would be counted as memory of the ingestion.
    first = tmp_path / "first.jsonl"
    first.write_bytes(lines(chat()))
    ingest_paths([first], INSTANCE, catalog=catalog, store=store)
    tracemalloc.start()
    report = ingest_paths([file], INSTANCE, catalog=catalog, store=store).files[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.kept == 4000
    assert peak < 0.6 * file.stat().st_size


@pytest.mark.parametrize("content", [b"", b"{", json.dumps([{"task_id": 1, "traj": []}]).encode()[:-2]])
def test_a_json_file_that_does_not_parse_is_rejected_whole(
    tmp_path: Path, content: bytes, catalog: Catalog, store: ObjectStore
) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    [report] = ingest_paths([file], INSTANCE, catalog=catalog, store=store).files
    assert report == FileReport(
        path=str(file), format=None, trajectories=1, kept=0, rejected=1, reasons={"malformed_json": 1}
    )
    assert store.list("trajectories") == []
    assert catalog.list_batches(INSTANCE) == []


def test_a_json_file_may_hold_one_episode_or_a_list(tmp_path: Path) -> None:
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text(json.dumps(chat()))
    many.write_text(json.dumps([chat("a"), chat("b")]))
    assert (report_of(one).kept, report_of(many).kept) == (1, 2)


@pytest.mark.parametrize("name", ["tasks.json", "policy.md", "episodes.jsonl"])
def test_a_named_file_without_a_known_format_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('[{"id": "0", "user_scenario": {}}]')
    with pytest.raises(InvalidInput, match=r"openai_chat, tau_bench, tau2, swe_agent, openhands, atif") as error:
        list(read_path(file))
    assert "\n" not in str(error.value)


def test_a_named_format_is_the_only_one_that_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(lines(chat()))
    assert report_of(file, "openai_chat").kept == 1
    with pytest.raises(InvalidInput, match="has no known format"):
        list(read_path(file, "tau2"))
    with pytest.raises(InvalidInput, match="format 'parquet' is unknown"):
        list(read_path(file, "parquet"))


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        list(read_path(tmp_path / "nothing.jsonl"))


def test_a_folder_is_read_completely_and_every_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index.json").write_text("{}")
    (tmp_path / "shop" / "policy.md").write_text("# Be kind")
    (tmp_path / "shop" / "tasks.json").write_text("[]")
    (tmp_path / "shop" / "broken.json").write_text("[")
    (tmp_path / "shop" / "episodes.jsonl").write_bytes(lines(chat()))
    reports = {Path(report.path).name: report for report, _ in read_path(tmp_path)}
    assert set(reports) == {"policy.md", "tasks.json", "broken.json", "episodes.jsonl"}
    for name in ("policy.md", "tasks.json"):
        assert reports[name].reasons == {"not_a_trajectory_file": 1}
        assert (reports[name].format, reports[name].trajectories, reports[name].rejected) == (None, 0, 0)
    assert reports["broken.json"].reasons == {"malformed_json": 1}
    assert reports["episodes.jsonl"].kept == 1


def test_the_same_file_twice_changes_nothing(tmp_path: Path, catalog: Catalog, store: ObjectStore) -> None:
    file, copy = tmp_path / "episodes.jsonl", tmp_path / "copy.jsonl"
    for path in (file, copy):
        path.write_bytes(lines(chat("a"), chat("b"), b"{"))
    first = ingest_paths([file], INSTANCE, catalog=catalog, store=store)
    objects, batches = store.list("trajectories"), catalog.list_batches(INSTANCE)
    again = ingest_paths([file, copy], INSTANCE, catalog=catalog, store=store)
    assert again.files[0] == first.files[0]
    assert store.list("trajectories") == objects
    assert catalog.list_batches(INSTANCE) == batches
    [batch] = batches
    assert (batch.source, batch.trajectories) == ("episodes.jsonl", 2)
    assert objects == [f"trajectories/acme/desk/{batch.id}.parquet"]
    assert [t.steps[-1].content for t in from_parquet(store.get(objects[0]))] == ["a", "b"]


def test_a_mistake_writes_nothing(tmp_path: Path, catalog: Catalog, store: ObjectStore) -> None:
    file = tmp_path / "episodes.jsonl"
    file.write_bytes(lines(chat()))
    with pytest.raises(InvalidInput, match="does not exist"):
        ingest_paths([file, tmp_path / "missing.jsonl"], INSTANCE, catalog=catalog, store=store)
    (tmp_path / "tasks.json").write_text("[]")
    with pytest.raises(InvalidInput, match="has no known format"):
        ingest_paths([tmp_path / "tasks.json", file], INSTANCE, catalog=catalog, store=store)
    with pytest.raises(NotFound):
        ingest_paths([file], InstanceName("nobody", "desk"), catalog=catalog, store=store)
    assert store.list("trajectories") == []
    assert catalog.list_instances() == []
