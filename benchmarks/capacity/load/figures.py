"""What a load came to, in figures."""

import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from looper.benchmarks.capacity.load.clients import Answered

SLO_FIRST_S = 5.0
"""A first token later than that misses the objective."""


class Times(BaseModel):
    """Percentiles, in seconds."""

    model_config = ConfigDict(frozen=True)

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times | None":
        if not seconds:
            return None
        p50, p95, p99 = (round(float(each), 4) for each in np.percentile(seconds, (50, 95, 99)))
        return cls(p50=p50, p95=p95, p99=p99)

    @classmethod
    def median(cls, rounds: "Sequence[Times | None]") -> "Times | None":
        there = [each for each in rounds if each]
        if not there:
            return None
        names = cls.model_fields
        return cls(**{name: statistics.median(getattr(each, name) for each in there) for name in names})


class Figures(BaseModel):
    """Of one load on one peer."""

    model_config = ConfigDict(frozen=True)

    requests: int
    failed: int
    requests_per_s: float
    """Whole answers, until the last of them or the end of the time."""
    tokens_per_s: float
    """Generated, in answers whole or not."""
    first_s: Times | None
    """From when a request was due to its first token."""
    between_s: Times | None
    """From token to token."""
    slo: float
    """Share of all requests whose first token came within ``SLO_FIRST_S``."""
    found: dict[str, int]
    """Requests by where their adapter was found; empty for who does not say."""

    @classmethod
    def median(cls, rounds: "Sequence[Figures]") -> "Figures":
        """Of each figure; requests by where their adapter was found are added up."""

        def middle(name: str) -> float:
            return float(statistics.median(getattr(each, name) for each in rounds))

        return cls(
            requests=round(middle("requests")),
            failed=round(middle("failed")),
            requests_per_s=middle("requests_per_s"),
            tokens_per_s=middle("tokens_per_s"),
            first_s=Times.median([each.first_s for each in rounds]),
            between_s=Times.median([each.between_s for each in rounds]),
            slo=middle("slo"),
            found=dict(sum((Counter(each.found) for each in rounds), Counter())),
        )


def sum_up(answers: Sequence[Answered]) -> Figures:
    whole = [answer for answer in answers if answer.done_s is not None]
    begun = [answer for answer in answers if answer.tokens_s]
    end_s = max((answer.tokens_s[-1] for answer in begun), default=0.0)
    firsts = [answer.first_s for answer in begun]
    return Figures(
        requests=len(answers),
        failed=len(answers) - len(whole),
        requests_per_s=round(len(whole) / end_s, 3) if end_s else 0.0,
        tokens_per_s=round(sum(len(answer.tokens_s) for answer in begun) / end_s, 2) if end_s else 0.0,
        first_s=Times.of(firsts),
        between_s=Times.of([gap for answer in begun for gap in answer.gaps_s]),
        slo=round(sum(first <= SLO_FIRST_S for first in firsts) / len(answers), 4),
        found=dict(Counter(answer.tier for answer in answers if answer.tier)),
    )
