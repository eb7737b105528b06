import pytest

from looper.jobs.synthesis import stages
from looper.jobs.synthesis.run import divide, rows_of
from looper.jobs.synthesis.table import read_examples
from looper.platform.domain.trajectory import Step, ToolCall, Trajectory
from tests.jobs.episodes import episode

CALL = ToolCall(id="c", name="look", arguments="{}")


def of(*steps: Step) -> Trajectory:
    return Trajectory.of(task_id="t", format="test", steps=steps)


def shape(trajectory: Trajectory) -> list[tuple[str, str, float]]:
    example = stages.render(trajectory)
    assert example is not None
    return [(turn.role, turn.content, turn.weight) for turn in example.turns]


def test_only_the_agents_turns_bear_loss() -> None:
    assert shape(episode(3)) == [
        ("system", "You book rooms.", 0),
        ("user", "Book day 3. Please.", 0),
        ("assistant", "", 1),
        ("tool", "ok", 0),
        ("assistant", "done", 1),
    ]


def test_the_users_own_calls_and_what_they_returned_are_left_out() -> None:
    rendered = shape(
        of(
            Step(source="user", content="My phone is dead."),
            Step(source="agent", content="Restart it."),
            Step(source="user", tool_calls=(CALL,), requestor="user"),
            Step(source="tool", content="restarted", call_id="c", requestor="user"),
            Step(source="user", content="It works.", tool_calls=(CALL,), requestor="user"),
            Step(source="agent", content="Good."),
        )
    )
    assert [content for _, content, _ in rendered] == ["My phone is dead.", "Restart it.", "It works.", "Good."]
    example = stages.render(of(Step(source="user", content="a", tool_calls=(CALL,)), Step(source="agent", content="b")))
    assert example is not None
    assert not any(turn.tool_calls for turn in example.turns)


def test_turns_of_one_speaker_in_a_row_become_one() -> None:
    rendered = shape(
        of(
            Step(source="user", content="Hello."),
            Step(source="user", content="Are you there?"),
            Step(source="agent", content="I look."),
            Step(source="agent", tool_calls=(CALL,)),
            Step(source="tool", content="1", call_id="c"),
            Step(source="tool", content="2", call_id="c"),
        )
    )
    assert [(role, content) for role, content, _ in rendered] == [
        ("user", "Hello.\nAre you there?"),
        ("assistant", "I look."),
        ("tool", "1"),
        ("tool", "2"),
    ]


def test_what_the_agent_says_first_is_context() -> None:
    rendered = shape(
        of(
            Step(source="agent", content="Hi!"),
            Step(source="user", content="Hi."),
            Step(source="agent", content="Well?"),
        )
    )
    assert [weight for _, _, weight in rendered] == [0, 0, 1]


def test_an_episode_without_a_turn_to_learn_is_no_example() -> None:
    assert stages.render(of(Step(source="agent", content="Hi!"), Step(source="user", content="Bye."))) is None
    assert stages.render(of(Step(source="user", content="Hello?"), Step(source="agent", content=" "))) is None


@pytest.mark.parametrize(
    ("outcomes", "reasons"),
    [
        ([True, False], [None, stages.FAILED]),
        ([None, None], [None, None]),
        ([True, None], [None, stages.UNLABELLED]),
        ([False, None], [stages.FAILED, stages.UNLABELLED]),
    ],
)
def test_unlabelled_episodes_are_kept_only_among_their_like(
    outcomes: list[bool | None], reasons: list[str | None]
) -> None:
    batch = [episode(task, success=outcome) for task, outcome in enumerate(outcomes)]
    assert stages.judge_outcomes(batch) == reasons


def test_what_goes_in_is_kept_or_rejected_with_its_reason() -> None:
    batch = [*(episode(task) for task in range(20)), *(episode(task, success=False) for task in range(5))]
    again = [episode(3).model_copy(update={"id": "other", "task_id": "renamed"})]
    rows = rows_of(batch) + rows_of(again)
    report, parts = divide(rows, 0.2)
    assert report.trajectories == 26
    assert report.rejected == {"failed": 5, "repeated": 1}
    assert report.train + report.holdout == 20
    assert report.failure is None
    train, holdout = (read_examples(parts[f"{part}.parquet"]) for part in ("train", "holdout"))
    assert (len(train), len(holdout)) == (report.train, report.holdout)
    assert not {example.task_id for example in train} & {example.task_id for example in holdout}
    assert divide(rows[::-1], 0.2) == (report, parts), "the order of a shuffle shows"


def test_nothing_left_is_said_with_the_counts() -> None:
    report, _ = divide(rows_of([episode(task, success=False) for task in range(3)]), 0.2)
    assert report.failure == (
        "no examples left after filtering: of 3 trajectories, 3 failed; ingest successful episodes"
    )


def test_one_task_cannot_be_judged() -> None:
    report, _ = divide(rows_of([episode(1), episode(1, room="red")]), 0.2)
    assert report.failure is not None
    assert "one task" in report.failure
