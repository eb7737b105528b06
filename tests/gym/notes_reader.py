"""An agent that knows nothing but the notes of a workplace. If it solves all tasks, the notes are true and complete."""

import re

from looper.gym.episode import Agent, Message, assistant_message
from looper.gym.notes import write_notes
from looper.gym.workplace import Question, Workplace, WorkplaceCall

_LINES = {
    "ask": re.compile(r"- Ask the user: Which (\w+)\? -> <\1>\."),
    "rule": re.compile(r"- (\w+) by (\w+): (.*)\."),
    "case": re.compile(r"- But (\w+)=(\w+) if (\w+) is (\w+)\."),
    "remedy": re.compile(r"- On (\w+): (\w+) (.*), then the same call again\."),
    "never": re.compile(r"- Never call .*\."),
    "step": re.compile(r"- (\w+) (\w+=.*?)(?: -> (.*))?\."),
}


def template_pattern(template: str, start: str, end: str) -> re.Pattern[str]:
    """Return a pattern with a group for each fact of a template whose facts stand between two brackets."""
    pieces = re.split(rf"{re.escape(start)}(\w+){re.escape(end)}", template)
    return re.compile("".join(f"(?P<{text}>.+?)" if i % 2 else re.escape(text) for i, text in enumerate(pieces)) + "$")


class NotesReader:
    """Parsed notes, and what the agent has found out about its task."""

    def __init__(self, workplace: Workplace) -> None:
        self.request = template_pattern(workplace.request, "{", "}")
        self.facts: dict[str, str] = {}
        self.rules: dict[str, tuple[str, dict[str, str]]] = {}
        self.cases: list[tuple[str, ...]] = []
        self.remedies: dict[str, tuple[str, str]] = {}
        self.plan: list[tuple[str, ...]] = []
        self.place, self.curing, self.calls = 0, False, 0
        for line in write_notes(workplace).splitlines():
            kind, match = next((k, m) for k, pattern in _LINES.items() if (m := pattern.fullmatch(line)))
            if kind == "rule":
                self.rules[match[1]] = match[2], dict(pair.split(" -> ") for pair in match[3].split(", "))
            elif kind == "case":
                self.cases.append(match.groups())
            elif kind == "remedy":
                self.remedies[match[1]] = match[2], match[3]
            elif kind != "never":
                self.plan.append((kind, *match.groups(default="")))

    def act(self, messages: list[Message], tools: list[Message]) -> Message:
        """Return the next message."""
        last = messages[-1]["content"]
        if len(messages) == 2:
            self._learn(self.request, last)
        elif last in self.remedies:
            self.curing = True
            return self._call(*self.remedies[last])
        elif self.curing:
            self.curing = False
        else:
            kind, name, *others = self.plan[self.place]
            if kind == "ask":
                self.facts[name] = last
            elif others[1]:
                self._learn(template_pattern(others[1], "<", ">"), last)
            self.place += 1
        if self.place == len(self.plan):
            return assistant_message(None, self.calls)
        kind, name, *others = self.plan[self.place]
        return assistant_message(Question(name, 0), 0) if kind == "ask" else self._call(name, others[0])

    def _learn(self, pattern: re.Pattern[str], text: str) -> None:
        match = pattern.match(text)
        assert match, f"{text!r} is not what the notes say"
        self.facts |= match.groupdict()

    def _call(self, tool: str, arguments: str) -> Message:
        self.calls += 1
        pairs = dict(re.findall(r"(\w+)=((?:[^,]|, (?!\w+=))+)", arguments))
        values = {name: re.sub(r"<(\w+)>", lambda m: self._find(m[1]), value) for name, value in pairs.items()}
        return assistant_message(WorkplaceCall(tool, values), self.calls)

    def _find(self, name: str) -> str:
        for code_name, code, fact, word in self.cases:
            if code_name == name and self.facts[fact] == word:
                return code
        if name in self.rules:
            fact, codes = self.rules[name]
            return codes[self.facts[fact]]
        return self.facts[name]


def notes_reader(workplace: Workplace) -> Agent:
    """Return a new agent that reads the notes of a workplace, for one episode."""
    return NotesReader(workplace).act
