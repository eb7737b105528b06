"""The memory of a lineage for replay: old windows, kept and drawn so that no session and no rule runs out of them.

``replay.py`` keeps it from session to session. It knows windows only, and nothing of what they are about.

**Kept by session and rule.** Each session's windows are put in an order in which any beginning covers the session's
rules as evenly as it can. When the capacity is reached, the session with the most windows gives up its last one. So all
sessions shrink evenly, and each keeps its rules as long as it has one window for each.

**Drawn by turns.** The session whose windows were replayed least recently comes first, and in it the window that was.
So every session is replayed equally often over time, whatever its size.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from random import Random

import torch

from looper.jobs.consolidation.data.window import Window
from looper.jobs.consolidation.strategies.strategy import StrategyState
from looper.jobs.consolidation.strategies.tensors import pack_windows, unpack_windows

Rule = tuple[int, ...]
"""Tokens that an agent says and that its prompt does not say."""

CALL_HEAD = 12
"""Tokens at the beginning of a call that tell which tool is called, in most formats."""
WINDOWS_OF_UNKNOWN_SESSIONS = 16
"""Windows that earlier releases kept do not tell their sessions. Each run of so many counts as one session."""


def find_rules(window: Window) -> frozenset[Rule]:
    """Return what an agent must have learned to make the calls of a window.

    It is what the calls say and the window's context does not: codes, fixed arguments, and which tool is called. What
    is copied from the context, such as the number of an order, is not a rule.

    Args:
        window: The window. If it has no calls, all its targets count as one.

    Returns:
        The rules.
    """
    context = set(window.tokens[window.weights == 0].tolist())
    tokens = window.tokens.tolist()
    calls = [tokens[start:end] for start, end in window.calls] or [[tokens[i] for i in window.target_places]]
    heads = {tuple(call[:CALL_HEAD]) for call in calls}
    return frozenset(heads | {(token,) for call in calls for token in call if token not in context})


def order_by_coverage(windows: Sequence[Window], rng: Random) -> list[Window]:
    """Order windows so that any beginning of the result covers their rules as evenly as it can.

    Greedy: next comes the window with the rule that is covered least so far. A window's count only grows, so the heap
    holds lower bounds, and a window is taken when its bound is up to date.

    Args:
        windows: Windows of one session.
        rng: Decides between windows with equal rules.

    Returns:
        The same windows.
    """
    rules = [find_rules(window) for window in windows]
    covered: Counter[Rule] = Counter()

    def coverage(i: int) -> tuple[int, int]:
        counts = [covered[rule] for rule in rules[i]]
        return (min(counts), sum(counts)) if counts else (len(windows), 0)

    heap = [(coverage(i), rng.random(), i) for i in range(len(windows))]
    heapq.heapify(heap)
    ordered = []
    while heap:
        bound, tie, i = heapq.heappop(heap)
        now = coverage(i)
        if now != bound:
            heapq.heappush(heap, (now, tie, i))
            continue
        ordered.append(windows[i])
        covered.update(rules[i])
    return ordered


class ReplayMemory:
    """Old windows by session, with the time at which each was last trained on.

    Attributes:
        seen: Number of windows that the lineage has ever learned.
        windows: The kept windows.
    """

    def __init__(self, state: StrategyState) -> None:
        """Read a stored memory.

        Args:
            state: What ``pack`` returned, now or in an earlier release; empty in a lineage's first session.
        """
        self.windows = unpack_windows({key: tensor for key, tensor in state.items() if key not in _OWN})
        self.seen = int(state["seen"]) if state else 0
        unknown = [i // WINDOWS_OF_UNKNOWN_SESSIONS for i in range(len(self.windows))]
        self._sessions: list[int] = state["sessions"].tolist() if "sessions" in state else unknown
        self._times: list[int] = state["times"].tolist() if "times" in state else [0] * len(self.windows)

    def draw(self, count: int, max_tokens: int) -> list[int]:
        """Return the windows whose turn it is. It does not change the memory; ``mark`` does.

        Args:
            count: Number of windows. If fewer are kept, they come again.
            max_tokens: The windows have no more tokens together, but there is at least one.

        Returns:
            Indices into ``windows``, first those that were replayed least recently.
        """
        times = list(self._times)
        clock = max(times, default=0)
        members: dict[int, list[int]] = {}
        for i, session in enumerate(self._sessions):
            members.setdefault(session, []).append(i)
        turns = [(max(times[i] for i in indices), session) for session, indices in members.items()]
        heapq.heapify(turns)
        drawn: list[int] = []
        tokens = 0
        while turns and len(drawn) < count:
            _, session = turns[0]
            chosen = min(members[session], key=lambda i: times[i])
            tokens += len(self.windows[chosen])
            if drawn and tokens > max_tokens:
                break
            clock += 1
            times[chosen] = clock
            heapq.heapreplace(turns, (clock, session))
            drawn.append(chosen)
        return drawn

    def mark(self, replayed: Sequence[int]) -> None:
        """Note that windows were trained on just now.

        Args:
            replayed: Indices into ``windows``, in the order of their turns.
        """
        clock = max(self._times, default=0)
        for number, i in enumerate(replayed, start=1):
            self._times[i] = clock + number

    def add_session(self, windows: Sequence[Window], capacity: int, rng: Random) -> None:
        """Keep windows of a new session, and make room for them.

        Args:
            windows: All windows of the session.
            capacity: Most windows to keep of all sessions.
            rng: Decides between windows of equal value.
        """
        self.seen += len(windows)
        sample = rng.sample(list(windows), min(len(windows), capacity))
        number, now = max(self._sessions, default=-1) + 1, max(self._times, default=0) + 1
        new = order_by_coverage(sample, rng)
        self.windows += new
        self._sessions += [number] * len(new)
        self._times += [now] * len(new)
        self._shrink(capacity)

    def _shrink(self, capacity: int) -> None:
        """Drop the last window of the session with the most, the oldest of equal ones, until the rest fits."""
        sizes = Counter(self._sessions)
        heap = [(-size, session) for session, size in sizes.items()]
        heapq.heapify(heap)
        for _ in range(len(self.windows) - capacity):
            size, session = heap[0]
            heapq.heapreplace(heap, (size + 1, session))
            sizes[session] -= 1
        kept, places = [], Counter[int]()
        for i, session in enumerate(self._sessions):
            if places[session] < sizes[session]:
                kept.append(i)
            places[session] += 1
        self.windows = [self.windows[i] for i in kept]
        self._times = [self._times[i] for i in kept]
        self._sessions = [self._sessions[i] for i in kept]

    def pack(self) -> StrategyState:
        """Return the memory as named tensors. Earlier releases read them too, without the sessions and times."""
        return {
            **pack_windows(self.windows),
            "seen": torch.tensor(self.seen),
            "sessions": torch.tensor(self._sessions, dtype=torch.int64),
            "times": torch.tensor(self._times, dtype=torch.int64),
        }


_OWN = ("seen", "sessions", "times")
"""Tensors of the memory that are not those of ``pack_windows``."""
