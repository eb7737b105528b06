"""From steps to chat turns."""

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.render import render
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.trajectory import Step, ToolCall, Trajectory
from tests.jobs.episodes import episode

CALL = ToolCall(id="c", name="look", arguments="{}")


def of(*steps: Step) -> Trajectory:
    return Trajectory.of(task_id="t", format="test", steps=steps)


def shape(trajectory: Trajectory) -> list[tuple[str, str, float]]:
    example = render(weigh(Draft.of(trajectory, labelled=True)))
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
    said = of(Step(source="user", content="a", tool_calls=(CALL,)), Step(source="agent", content="b"))
    assert not any(turn.tool_calls for turn in render(Draft.of(said, labelled=True)).turns)


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


def test_an_episode_without_a_turn_to_learn_is_rejected() -> None:
    for steps in (
        (Step(source="agent", content="Hi!"), Step(source="user", content="Bye.")),
        (Step(source="user", content="Hello?"),),
    ):
        assert weigh(Draft.of(of(*steps), labelled=True)).rejected == "nothing_to_learn"
