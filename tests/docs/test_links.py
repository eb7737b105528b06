"""Links lead somewhere, the site has every page, and the picture is of the text that it was made from."""

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Piece, anchors, links, pages

DOCS = ROOT / "docs"


def dead(link: Piece) -> str | None:
    """Why a link leads nowhere. Those to other sites are not followed."""
    path, _, anchor = link.text.partition("#")
    if "://" in link.text or path.startswith("mailto:"):
        return None
    target = (link.page.parent / path).resolve() if path else link.page
    if not target.exists():
        return f"{link.text}: no such file"
    if target.is_dir():
        return f"{link.text}: a folder, which the site cannot show" if link.page.is_relative_to(DOCS) else None
    if link.page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
        return f"{link.text}: not on the site, which has docs/ only"
    if anchor and anchor not in anchors(target):
        return f"{link.text}: no such heading"
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [f"{link}: {problem}" for link in links(page) if (problem := dead(link))] == []


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("serving.md", None),
        ("serving.md#watching-it", None),
        ("#limits-and-overload", None),
        ("https://example.org/#anything", None),
        ("server.md", "no such file"),
        ("serving.md#watching", "no such heading"),
        ("#there", "no such heading"),
        ("decisions/", "a folder"),
        ("../pyproject.toml", "not on the site"),
        ("images/architecture.png", "no such file"),
    ],
)
def test_a_dead_link_is_found(target: str, problem: str | None) -> None:
    found = dead(Piece(DOCS / "serving.md", 1, target))
    assert (found is None) if problem is None else (found is not None and problem in found)


def _listed(nav: list[object]) -> Iterator[str]:
    for entry in nav:
        match entry:
            case str():
                yield entry
            case dict():
                yield from _listed(list(entry.values()))
            case list():
                yield from _listed(entry)


def test_the_site_lists_every_page_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert sorted(_listed(nav)) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_architectures_picture_is_up_to_date() -> None:
    """`make docs-picture` makes it anew, and writes down what of."""
    digest = hashlib.sha256((DOCS / "architecture.dot").read_bytes()).hexdigest()
    assert f"architecture.dot sha256 {digest}" in (DOCS / "images" / "architecture.svg").read_text()
