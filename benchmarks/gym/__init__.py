"""Simulated work places: they make the trajectories of ``examples/`` and judge a live agent's answers.

``WORKPLACES[instance].task(task_id, seed)`` is a task, ``run_episode(task, act)`` lets any agent do it.
The guide: docs/gym.md.
"""

from looper.benchmarks.gym.episode import Act, EpisodeResult, Message, run_episode
from looper.benchmarks.gym.generate import Recorded, record, write_examples
from looper.benchmarks.gym.policies import Noise, expert
from looper.benchmarks.gym.workplace import Call, Convention, Obstacle, Step, Task, Tool, Workplace
from looper.benchmarks.gym.workplaces import WORKPLACES

__all__ = [
    "WORKPLACES",
    "Act",
    "Call",
    "Convention",
    "EpisodeResult",
    "Message",
    "Noise",
    "Obstacle",
    "Recorded",
    "Step",
    "Task",
    "Tool",
    "Workplace",
    "expert",
    "record",
    "run_episode",
    "write_examples",
]
