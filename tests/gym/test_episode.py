"""An episode ends early when the agent repeats itself, if the caller wants that."""

from looper.gym.episode import run_episode
from looper.gym.workplace import MIN_TURN_LIMIT
from looper.gym.workplaces import WORKPLACES


def test_end_loops_stops_an_agent_that_repeats_its_calls() -> None:
    task = next(iter(WORKPLACES.values())).task("loops-001", seed=0)
    stuck = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "nothing", "arguments": "{}"}}],
    }
    assert len(run_episode(task, lambda messages, tools: stuck).turns) == MIN_TURN_LIMIT
    ended = run_episode(task, lambda messages, tools: stuck, end_loops=True)
    assert (len(ended.turns), ended.success) == (2, False)
