"""Rendering of steps as chat turns."""

from looper.jobs.synthesis.draft import Draft
from looper.jobs.synthesis.output.render import render_example
from looper.jobs.synthesis.stages.weigh import weigh
from looper.platform.domain.trajectory import Step, ToolCall, Trajectory
from tests.jobs.episodes import episode

CALL = ToolCall(id="c", name="look", arguments="{}")


def trajectory(*steps: Step) -> Trajectory:
    return Trajectory.create(task_id="t", format="test", steps=steps)


def rendered_turns(source: Trajectory) -> list[tuple[str, str, float]]:
    example = render_example(weigh(Draft.from_trajectory(source, has_labels=True)))
    return [(turn.role, turn.content, turn.weight) for turn in example.turns]


def test_only_turns_of_the_agent_have_a_loss_weight() -> None:
    assert rendered_turns(episode(3)) == [
        ("system", "You book rooms.", 0),
        ("user", "Book day 3. Please.", 0),
        ("assistant", "", 1),
        ("tool", "ok", 0),
        ("assistant", "done", 1),
    ]


def test_tool_calls_of_the_user_are_left_out() -> None:
    rendered = rendered_turns(
        trajectory(
            Step(source="user", content="My phone is dead."),
            Step(source="agent", content="Restart it."),
            Step(source="user", tool_calls=(CALL,), requestor="user"),
            Step(source="tool", content="restarted", call_id="c", requestor="user"),
            Step(source="user", content="It works.", tool_calls=(CALL,), requestor="user"),
            Step(source="agent", content="Good."),
        )
    )
    assert [content for _, content, _ in rendered] == ["My phone is dead.", "Restart it.", "It works.", "Good."]
    episode_with_calls = trajectory(
        Step(source="user", content="a", tool_calls=(CALL,)), Step(source="agent", content="b")
    )
    assert not any(
        turn.tool_calls for turn in render_example(Draft.from_trajectory(episode_with_calls, has_labels=True)).turns
    )


def test_consecutive_turns_of_one_speaker_stay_apart_as_the_engine_was_asked() -> None:
    rendered = rendered_turns(
        trajectory(
            Step(source="user", content="Hello."),
            Step(source="user", content="Are you there?"),
            Step(source="agent", content="I look."),
            Step(source="agent", tool_calls=(CALL,)),
            Step(source="tool", content="1", call_id="c"),
            Step(source="tool", content="2", call_id="c"),
        )
    )
    assert [(role, content) for role, content, _ in rendered] == [
        ("user", "Hello."),
        ("user", "Are you there?"),
        ("assistant", "I look."),
        ("assistant", ""),
        ("tool", "1"),
        ("tool", "2"),
    ]


def test_developers_and_reasoning_are_kept() -> None:
    source = trajectory(
        Step(source="developer", content="Be brief."),
        Step(source="user", content="Hello."),
        Step(source="agent", content="Hi.", reasoning="A greeting."),
    )
    example = render_example(weigh(Draft.from_trajectory(source, has_labels=True)))
    assert [(turn.role, turn.content, turn.reasoning) for turn in example.turns] == [
        ("developer", "Be brief.", ""),
        ("user", "Hello.", ""),
        ("assistant", "Hi.", "A greeting."),
    ]


def test_agent_turns_before_the_user_speaks_are_context() -> None:
    rendered = rendered_turns(
        trajectory(
            Step(source="agent", content="Hi!"),
            Step(source="user", content="Hi."),
            Step(source="agent", content="Well?"),
        )
    )
    assert [weight for _, _, weight in rendered] == [0, 0, 1]


def test_an_episode_without_a_learned_turn_is_rejected() -> None:
    for steps in (
        (Step(source="agent", content="Hi!"), Step(source="user", content="Bye.")),
        (Step(source="user", content="Hello?"),),
    ):
        assert weigh(Draft.from_trajectory(trajectory(*steps), has_labels=True)).rejected == "nothing_to_learn"
