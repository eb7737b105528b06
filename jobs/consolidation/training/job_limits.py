"""What one consolidation may take of a trainer that it shares: optimizer steps, tokens and hours.

The trainer checks the first two when a consolidation joins, before it has cost anything, and the hours as it trains.
The bounds are settings. Those of a recipe alone are checked at submission, by ``Settings.check_recipe``.
"""

from dataclasses import dataclass

from looper.jobs.consolidation.training.session import TrainingSession
from looper.platform.domain.errors import InvalidInput
from looper.platform.settings import ConsolidationSettings

_DEFAULTS = ConsolidationSettings()


@dataclass(frozen=True)
class JobLimits:
    """Bounds of one consolidation."""

    max_steps: int = _DEFAULTS.max_steps_per_job
    """Maximum optimizer steps."""
    max_tokens: int = _DEFAULTS.max_tokens_per_job
    """Maximum tokens trained on, over all epochs."""
    max_hours: float = _DEFAULTS.max_hours_per_job
    """Maximum time in a trainer, in hours."""

    @classmethod
    def of(cls, settings: ConsolidationSettings) -> "JobLimits":
        """Return the bounds that the settings give.

        Args:
            settings: The settings.

        Returns:
            The bounds.
        """
        return cls(settings.max_steps_per_job, settings.max_tokens_per_job, settings.max_hours_per_job)

    def check_size(self, session: TrainingSession) -> None:
        """Check the steps and tokens of a whole session.

        Args:
            session: The session.

        Raises:
            InvalidInput: If it needs more than a bound.
        """
        if session.steps > self.max_steps:
            raise InvalidInput(
                f"training takes {session.steps} steps, more than consolidation.max_steps_per_job {self.max_steps}: "
                "lower the recipe's epochs or max_steps, or raise its batch_size"
            )
        if session.total_tokens > self.max_tokens:
            raise InvalidInput(
                f"training takes {session.total_tokens} tokens, more than consolidation.max_tokens_per_job "
                f"{self.max_tokens}: lower the recipe's epochs or max_steps"
            )

    def check_time(self, training_s: float) -> None:
        """Check how long a consolidation has been in trainers.

        Args:
            training_s: The time in seconds.

        Raises:
            InvalidInput: If it is more than the bound.
        """
        if training_s > self.max_hours * 3600:
            raise InvalidInput(
                f"training took {training_s / 3600:.3g} hours, more than consolidation.max_hours_per_job "
                f"{self.max_hours:g}: lower the recipe's epochs or max_steps"
            )
