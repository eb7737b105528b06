"""The page about base models says what is so."""

import pytest

from tests.docs.bases_page import PAGE, make_page
from tests.template_bases import TEMPLATES


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="the real chat templates are not here")
@pytest.mark.timeout(600)
def test_the_page_is_what_is_found_by_trying() -> None:
    assert PAGE.read_text() == make_page(), "python -m tests.docs.bases_page"
