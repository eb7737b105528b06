"""Simulated work places: they make the trajectories of ``examples/`` and judge a live agent's answers.

``WORKPLACES[instance].task(task_id, seed)`` is a task, ``run_episode(task, act)`` lets any agent do it.
The guide: docs/gym.md.
"""

from looper.gym.episode import Act, EpisodeResult, Message, run_episode
from looper.gym.generate import Recorded, record, write_examples
from looper.gym.policies import Noise, expert
from looper.gym.workplace import Convention, ExpectedCall, Obstacle, Tool, Workplace, WorkplaceStep, WorkplaceTask
from looper.gym.workplaces import WORKPLACES

__all__ = [
    "WORKPLACES",
    "Act",
    "Convention",
    "EpisodeResult",
    "ExpectedCall",
    "Message",
    "Noise",
    "Obstacle",
    "Recorded",
    "Tool",
    "Workplace",
    "WorkplaceStep",
    "WorkplaceTask",
    "expert",
    "record",
    "run_episode",
    "write_examples",
]
