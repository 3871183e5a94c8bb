"""The pages of the jobs: each has a graph, an example in and out, and a query, and all of it works."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.topology import JOBS
from tests.docs.pages import ROOT, blocks, text_of
from tests.docs.test_docs_blocks import test_every_command_and_every_line_of_python_on_a_page_works as follow

JOB_PAGES = sorted((ROOT / "docs" / "jobs").glob("*.md"))


@pytest.mark.parametrize("page", [page for page in JOB_PAGES if page.stem != "README"], ids=lambda page: page.stem)
def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path)


def test_every_job_has_its_page_with_a_graph_an_example_and_a_query() -> None:
    assert {page.stem for page in JOB_PAGES} == {*JOBS, "README"} - {"fraud"}
    for page in JOB_PAGES:
        if page.stem != "README":
            graph, *others = (block.text for block in blocks(page))
            assert "──>" in graph
            assert any("famulus produce" in text and "famulus read" in text for text in others), page
            assert any("famulus state get" in text or "curl" in text for text in others), page


def test_every_job_is_in_the_overview() -> None:
    overview = text_of(ROOT / "docs" / "jobs" / "README.md")
    assert all(f"| `{job}` |" in overview for job in JOBS)
