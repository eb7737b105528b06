"""``python -m tests.docs.gate_page``: writes docs/gate.md and its picture, how often the gate decides what.

The real gate judges simulated skills whose true accuracy is known. A test compares the page with what this makes.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from looper.platform.settings import GateSettings
from tests.jobs.gate.lineage import LEARNED, MAX_FALL, live, worst_fall
from tests.jobs.gate.simulation import ACTIONS_PER_TASK, WITHIN_TASK, measure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gate.md"
PICTURE = ROOT / "docs" / "images" / "gate.svg"

REPETITIONS = 1000
"""Simulated candidates of each cell."""

ACTIONS = (15, 30, 60, 200)
EFFECTS = (-0.2, -0.05, 0.0, 0.05, 0.1, 0.2)
CORRELATED, INDEPENDENT = 0.8, 0.0
BEFORE = 0.6
FIRST_SKILLS = (0.1, 0.25, 0.5, 0.9)

SESSIONS = 50
LINEAGES = 50
FORGETTING = ((0.01, 0.0), (0.02, 0.0), (0.04, 0.0), (0.07, 0.0), (0.002, 0.1), (0.0, 0.0))
"""Shares that are forgotten in each session, and that come back of what was forgotten."""

COLORS = {"passed": "#2f9e62", "canary": "#d5d9de", "refused": "#cf5340"}
_CELL_WIDTH, _CELL_HEIGHT, _LEFT, _TOP = 170, 40, 190, 74

_HEAD = """# How sure is the gate?

What the gate decides about skills whose true accuracy is known. The gate is the real one with its default settings
(`consolidation.gate`); the skills are simulated. `python -m tests.docs.gate_page` makes this page.

![Bars of how often a candidate passes, goes to the canary or is refused](images/gate.svg)

A candidate that **passes** gets `prod`. An **undecided** one is published for the channel `canary`, which answers
{share:.0%} of the requests for the plain name, until somebody promotes it or a later version passes. One that is
**refused** is not published. [What the gate checks](consolidation.md#what-does-the-gate-check) is on another page.

With {few} held-out actions, of candidates that are truly 20 points better, {power:.0%} pass at once and the others go
to the canary. Of those that are no better, {same:.1%} pass. More held-out tasks narrow the gray band, and nothing else
does: what a few actions cannot show, no gate can know.

## First sessions

The version before has an accuracy of {before:.0%}. The candidate's is higher or lower by the stated points. Each cell
has the shares of candidates that pass / go to the canary / are refused, of {repetitions:,}.

"""

_FIRST_SKILLS = """
## First skills

Most often the first skill of an instance is compared with a base model that gets nothing right. Then a few actions are
enough.

"""

_LATER = """
## Later sessions

As above, and the candidate is also asked as many actions of earlier sessions, where it and the best version both have
a true accuracy of 90 %. So nothing is forgotten, and what goes to the canary beyond the table above is the price of
looking.

"""

_DRIFT = """
## How far can a lineage drift?

{sessions} sessions. In each, a candidate gets {learned:.0%} of its own new tasks right, and forgets a share of what the
served version gets right on earlier sessions, for good. Only a candidate that passes is served and continued from. The
table has how far a served version ever was below the best ones on its earlier sessions, in points on average over these
sessions: in the median of {lineages} lineages / in 95 % of them / in the worst one; and how many versions were served.

"""

_DRIFT_END = """
Without a gate, a skill that loses 2 points a session would end {all_lost:.0f} points below its {best:.0f}. With {few}
earlier actions it is stopped {stopped:.0f} points below its best, and in the worst lineage {worst:.0f}. A test fails if
that becomes more than {bound:.0f}. A loss of a few points cannot be seen in a few actions, so it is stopped no earlier.
Whatever is not served goes to the canary or is refused, and a skill that loses nothing is never stopped.
"""

_TAIL = """
## How it is simulated

- An action is right if a standard normal number is below a threshold, which gives the accuracy. A part of that number
  is common to both versions: how hard the action is. *Errors on the same actions*: the common part is {correlated:.0%}
  of the variance, as between a version and its parent. *Independent errors*: there is no common part, so the two differ
  on many actions by chance.
- A task has {per_task} actions, whose numbers have {within:.0%} of their variance in common. The test is by task, so
  that actions which succeed and fail together do not count as independent evidence.
- There is no simulated change of the losses, of repeated or of invalid calls.
- The 95 % interval of a share near 1 % is about ±0.6 points, and near 50 % about ±3 points.
"""


@cache
def _measured(actions: int, effect: float, correlation: float, with_earlier: bool = False) -> Mapping[str, float]:
    return measure(
        actions,
        effect,
        correlation=correlation,
        repetitions=REPETITIONS,
        before=BEFORE,
        with_earlier=with_earlier,
    )


def make_page() -> str:
    """Return the text of the page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    limits = GateSettings()
    yield _HEAD.format(
        share=limits.canary_share,
        few=ACTIONS[1],
        power=_measured(ACTIONS[1], 0.2, CORRELATED)["passed"],
        same=_measured(ACTIONS[1], 0.0, CORRELATED)["passed"],
        before=BEFORE,
        repetitions=REPETITIONS,
    )
    yield from _table(with_earlier=False)
    yield _FIRST_SKILLS
    yield from _first_skills()
    yield _LATER
    yield from _table(with_earlier=True)
    yield from _drift()
    yield _TAIL.format(correlated=CORRELATED, per_task=ACTIONS_PER_TASK, within=WITHIN_TASK)


def _table(*, with_earlier: bool) -> Iterator[str]:
    yield _heading("errors", "true change")
    effects = (0.0, 0.2) if with_earlier else EFFECTS
    for correlation, name in ((CORRELATED, "on the same actions"), (INDEPENDENT, "independent")):
        for effect in effects:
            cells = (_cell(_measured(actions, effect, correlation, with_earlier)) for actions in ACTIONS)
            yield f"| {name} | {_points(effect)} | {' | '.join(cells)} |\n"


def _first_skills() -> Iterator[str]:
    yield _heading("the skill's accuracy")
    for accuracy in FIRST_SKILLS:
        measured = (
            measure(actions, accuracy, correlation=CORRELATED, repetitions=REPETITIONS, before=0.0)
            for actions in ACTIONS
        )
        yield f"| {accuracy:.0%} | {' | '.join(map(_cell, measured))} |\n"


def _drift() -> Iterator[str]:
    yield _DRIFT.format(sessions=SESSIONS, learned=LEARNED, lineages=LINEAGES)
    yield _heading("forgotten in each session", actions=[f"{actions} earlier actions" for actions in MAX_FALL])
    measured = {}
    for forgets, recovers in FORGETTING:
        cells = []
        for actions in MAX_FALL:
            lineages = [live(forgets, recovers, seed, sessions=SESSIONS, earlier=actions) for seed in range(LINEAGES)]
            falls = measured[forgets, actions] = sorted(100 * worst_fall(served) for served in lineages)
            shown = (falls[LINEAGES // 2], falls[LINEAGES * 95 // 100], falls[-1])
            count = sum(map(len, lineages)) / LINEAGES
            cells.append(f"{' / '.join(f'{fall:.0f}' for fall in shown)}; {count:.0f} served")
        name = f"{forgets:.1%}" + (f", and {recovers:.0%} of what is forgotten comes back" if recovers else "")
        yield f"| {name if forgets else 'nothing'} | {' | '.join(cells)} |\n"
    few = max(MAX_FALL)
    falls = measured[0.02, few]
    yield _DRIFT_END.format(
        all_lost=100 * LEARNED * (1 - 0.98 ** (SESSIONS - 1)),
        best=100 * LEARNED,
        stopped=falls[LINEAGES // 2],
        few=few,
        worst=falls[-1],
        bound=100 * MAX_FALL[few],
    )


def _heading(*columns: str, actions: Sequence[str] = tuple(f"{count} actions" for count in ACTIONS)) -> str:
    names = [*columns, *actions]
    return f"| {' | '.join(names)} |\n|{' ---: |' * len(names)}\n"


def _cell(shares: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares.values()) + " %"


def _points(effect: float) -> str:
    return "none" if not effect else f"{100 * effect:+.0f} points"


def make_picture() -> str:
    """Return the picture as SVG: a bar for each true effect and number of actions."""
    width = _LEFT + len(ACTIONS) * _CELL_WIDTH + 10
    height = _TOP + len(EFFECTS) * _CELL_HEIGHT + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    labels = {"passed": "passes: gets prod", "canary": "undecided: goes to the canary", "refused": "is refused"}
    for number, (name, label) in enumerate(labels.items()):
        x = _LEFT + number * 230
        lines.append(f'<rect x="{x}" y="10" width="14" height="14" fill="{COLORS[name]}"/>')
        lines.append(f'<text x="{x + 20}" y="22">{label}</text>')
    lines.append(f'<text x="10" y="{_TOP - 14}" font-weight="bold">the skill is truly</text>')
    for column, actions in enumerate(ACTIONS):
        x = _LEFT + column * _CELL_WIDTH
        lines.append(f'<text x="{x}" y="{_TOP - 14}" font-weight="bold">{actions} held-out actions</text>')
    for row, effect in enumerate(EFFECTS):
        y = _TOP + row * _CELL_HEIGHT
        lines.append(f'<text x="10" y="{y + 19}">{_words(effect)}</text>')
        for column, actions in enumerate(ACTIONS):
            lines += _bar(_LEFT + column * _CELL_WIDTH, y, _measured(actions, effect, CORRELATED))
    return "\n".join([*lines, "</svg>", ""])


def _words(effect: float) -> str:
    return "no better" if not effect else f"{abs(100 * effect):.0f} points {'better' if effect > 0 else 'worse'}"


def _bar(left: int, top: int, shares: Mapping[str, float]) -> Iterator[str]:
    x, whole = float(left), _CELL_WIDTH - 16
    for name, share in shares.items():
        width = whole * share
        yield f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="28" fill="{COLORS[name]}"/>'
        if share >= 0.2:
            color = "#333" if name == "canary" else "white"
            yield f'<text x="{x + width / 2:.1f}" y="{top + 19}" fill="{color}" text-anchor="middle">{share:.0%}</text>'
        x += width


if __name__ == "__main__":
    PAGE.write_text(make_page())
    PICTURE.write_text(make_picture())
