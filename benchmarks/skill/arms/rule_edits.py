"""Lists of rules that a model edits line by line: what ExpeL and ACE have in common.

The model answers with lines such as ``ADD: text``, ``EDIT 2: text``, ``AGREE 3`` and ``REMOVE 4``. A rule starts with
two votes, each line about it adds or takes one, and a rule without votes is dropped (ExpeL, arXiv 2308.10144).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

START_VOTES = 2
"""Votes of a new rule."""
MAX_RULES = 30
"""Rules of a list. Those with the fewest votes are dropped first."""
MAX_RULE_CHARACTERS = 300
"""A longer rule is cut: a small model may repeat itself to its limit."""

EDIT_INSTRUCTION = """Answer with lines of these forms only:
ADD: a new rule
EDIT 2: a better text of rule 2
AGREE 2
REMOVE 2"""

_EDIT = re.compile(r"^\W*(ADD|EDIT|AGREE|REMOVE)\b[ \t]*(\d*)[ \t]*:?[ \t]*(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class VotedRule:
    """A rule and its votes."""

    text: str
    """The rule."""
    votes: int = START_VOTES
    """Its votes; at 0 it is dropped."""


def apply_edits(rules: Sequence[VotedRule], answer: str) -> list[VotedRule]:
    """Apply the edits of a model to a list of rules.

    Args:
        rules: The rules, which the edits number from 1.
        answer: What the model wrote. Lines that are no edits, and numbers of no rule, are ignored.

    Returns:
        The rules, at most ``MAX_RULES``.
    """
    edited: list[VotedRule | None] = list(rules)
    for verb, number, text in _EDIT.findall(answer):
        text = text.strip()[:MAX_RULE_CHARACTERS]
        known = [rule.text for rule in edited if rule is not None]
        if verb == "ADD" and text and text not in known:
            edited.append(VotedRule(text))
        elif verb != "ADD" and number and 1 <= int(number) <= len(rules):
            place = int(number) - 1
            rule = edited[place]
            if rule is not None:
                edited[place] = _edit(rule, verb, text)
    kept = [rule for rule in edited if rule is not None]
    while len(kept) > MAX_RULES:
        kept.remove(min(kept, key=lambda rule: rule.votes))
    return kept


def write_rules(rules: Sequence[VotedRule]) -> str:
    """Write rules as a numbered list, for the model that edits them.

    Args:
        rules: The rules.

    Returns:
        One line for each rule.
    """
    return "\n".join(f"{number}. {rule.text} ({rule.votes} votes)" for number, rule in enumerate(rules, 1)) or "(none)"


def _edit(rule: VotedRule, verb: str, text: str) -> VotedRule | None:
    match verb:
        case "EDIT" if text:
            return VotedRule(text, rule.votes + 1)
        case "AGREE":
            return replace(rule, votes=rule.votes + 1)
        case "REMOVE":
            return replace(rule, votes=rule.votes - 1) if rule.votes > 1 else None
        case _:
            return rule
