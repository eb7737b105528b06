"""The token bucket of rate limits per minute: of requests and tokens on ``/v1``, and of requests on ``/api/v1``."""

from dataclasses import dataclass


@dataclass
class TokenBucket:
    """A token bucket whose capacity is what it gains in one minute."""

    per_minute: int
    """Capacity, and the amount that it gains per minute."""
    level: float
    """What it holds now. Negative: more was used than it held."""
    updated_at: float
    """Time of the last refill, in seconds of a monotonic clock."""

    def refill(self, now: float) -> None:
        """Add what the bucket has gained since the last refill.

        Args:
            now: Time in seconds of the same clock.
        """
        self.level = min(self.per_minute, self.level + (now - self.updated_at) * self.per_minute / 60)
        self.updated_at = now

    def seconds_until(self, amount: float) -> float:
        """Return how long it takes until the bucket holds an amount.

        Args:
            amount: The amount.

        Returns:
            Seconds, 0 if the bucket holds it now.
        """
        return max(0.0, (amount - self.level) * 60 / self.per_minute)
