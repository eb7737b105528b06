"""The gym: simulated workplaces that produce the trajectories of ``examples/`` and judge a live agent.

``WORKPLACES[instance].task(task_id, seed)`` draws a task, and ``run_episode(task, agent)`` lets any agent work on it.
The demo, the benchmarks and the tests use the gym. The guide is docs/gym.md.
"""

from looper.gym.episode import Agent, EpisodeResult, Message, run_episode
from looper.gym.generate import RecordedEpisode, record_episodes, write_examples
from looper.gym.hard_workplaces import HARD_WORKPLACES
from looper.gym.policies import Noise, expert_agent
from looper.gym.workplace import (
    Convention,
    Obstacle,
    Question,
    SpecialCase,
    Tool,
    Workplace,
    WorkplaceCall,
    WorkplaceStep,
    WorkplaceTask,
)
from looper.gym.workplaces import WORKPLACES

__all__ = [
    "HARD_WORKPLACES",
    "WORKPLACES",
    "Agent",
    "Convention",
    "EpisodeResult",
    "Message",
    "Noise",
    "Obstacle",
    "Question",
    "RecordedEpisode",
    "SpecialCase",
    "Tool",
    "Workplace",
    "WorkplaceCall",
    "WorkplaceStep",
    "WorkplaceTask",
    "expert_agent",
    "record_episodes",
    "run_episode",
    "write_examples",
]
