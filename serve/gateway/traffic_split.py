"""Which of several versions answers a request for a skill that has a canary."""

from collections import OrderedDict
from collections.abc import Sequence

from looper.platform.catalog import Target

MOST = 10_000
"""Skills whose turn is remembered."""


class TrafficSplitter:
    """Gives each target its share of a name's requests, exact to one request at any time.

    By smooth weighted round-robin, as nginx has it: all are owed their share of each request, and who is owed most
    answers. In a gateway's memory: several gateways are each exact.
    """

    def __init__(self) -> None:
        self._owed: OrderedDict[str, dict[Target, float]] = OrderedDict()

    def pick(self, name: str, targets: Sequence[Target]) -> Target:
        if len(targets) == 1:
            return targets[0]
        owed = self._owed.pop(name, {})
        if owed.keys() != set(targets):  # another version, or another share, starts anew
            owed = dict.fromkeys(targets, 0.0)
        for target in owed:
            owed[target] += target.share
        chosen = max(owed, key=owed.__getitem__)
        owed[chosen] -= 1
        self._owed[name] = owed
        if len(self._owed) > MOST:
            self._owed.popitem(last=False)
        return chosen
