"""Splits the requests for a skill between its ``prod`` version and its canaries. Used by ``completion_handler``."""

from collections import OrderedDict
from collections.abc import Sequence

from looper.platform.catalog import RouteTarget

MAX_SKILLS = 10_000
"""Number of skills whose split is remembered. The one that was requested least recently is forgotten first."""


class TrafficSplitter:
    """Gives each target its share of a model name's requests, exact to one request at any time.

    It uses smooth weighted round-robin, as nginx does: each request raises the current weight of every target by its
    share, the target with the highest weight gets the request, and its weight falls by 1. The state is in this
    gateway's memory, so each of several gateways is exact for its own requests.
    """

    def __init__(self) -> None:
        self._weights: OrderedDict[str, dict[RouteTarget, float]] = OrderedDict()

    def pick(self, name: str, targets: Sequence[RouteTarget]) -> RouteTarget:
        """Choose the target of the next request.

        Args:
            name: Model name in the request.
            targets: The versions that share its requests, at least one. Their shares sum up to 1.

        Returns:
            One of the targets.
        """
        if len(targets) == 1:
            return targets[0]
        weights = self._weights.pop(name, {})
        if weights.keys() != set(targets):  # a version or a share has changed, so counting starts again
            weights = dict.fromkeys(targets, 0.0)
        for target in weights:
            weights[target] += target.share
        chosen = max(weights, key=weights.__getitem__)
        weights[chosen] -= 1
        self._weights[name] = weights
        if len(self._weights) > MAX_SKILLS:
            self._weights.popitem(last=False)
        return chosen
