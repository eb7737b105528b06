"""The repository's pages, taken apart: code blocks, code within sentences, links, and the anchors of headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Piece:
    """A part of a page and where it begins; ``info`` is a code block's language, with what is said beside it."""

    page: Path
    line: int
    text: str
    info: str = ""

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    def __str__(self) -> str:
        name = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{name}:{self.line}"


def pages() -> list[Path]:
    """All that is written for people to read, but for the license."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])


@cache
def _tokens(page: Path) -> list[Token]:
    text = page.read_text()
    if text.startswith("---\n"):  # what GitHub asks of a template; blank lines keep the numbers of the others
        front, _, rest = text[4:].partition("\n---\n")
        text = "\n" * (front.count("\n") + 3) + rest
    return MarkdownIt("commonmark").enable("table").parse(text)


def code_blocks(page: Path) -> list[Piece]:
    return [
        Piece(page, token.map[0] + 1 if token.map else 0, token.content, token.info.strip())
        for token in _tokens(page)
        if token.type in ("fence", "code_block")
    ]


def _inline(page: Path) -> Iterator[tuple[int, Token]]:
    line = 0
    for token in _tokens(page):
        line = token.map[0] + 1 if token.map else line
        for child in token.children or ():
            yield line, child


def code_spans(page: Path) -> list[Piece]:
    return [Piece(page, line, token.content) for line, token in _inline(page) if token.type == "code_inline"]


def links(page: Path) -> list[Piece]:
    """Targets of links and sources of pictures."""
    targets = ((line, token.attrGet("href") or token.attrGet("src")) for line, token in _inline(page))
    return [Piece(page, line, str(target)) for line, target in targets if target]


def anchors(page: Path) -> set[str]:
    """As GitHub and the site make them of headings. One that comes twice is numbered differently in both: left out."""
    tokens = _tokens(page)
    headings = [after for token, after in pairwise(tokens) if token.type == "heading_open"]
    made = [_slug("".join(child.content for child in heading.children or ())) for heading in headings]
    return {slug for slug in made if made.count(slug) == 1}


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
