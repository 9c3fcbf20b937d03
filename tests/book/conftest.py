"""The built pages under test: DEEPLIMITS_SITE, or the published book if that is not set."""

import os
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / os.environ.get("DEEPLIMITS_SITE", "_build/html")


def all_pages() -> list[str]:
    """Paths of all pages below the site, those of the theme's own files left out."""
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    return [page for page in pages if not page.startswith("_")]


@cache
def parse(page: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / page).read_text("utf8"), "html.parser")


def pytest_generate_tests(metafunc):
    """A test with an argument ``page`` runs once for each page."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", all_pages())


@pytest.fixture(scope="session", autouse=True)
def built():
    if not (SITE / "chapters" / "index.html").exists():
        pytest.exit(f"no book in {SITE.relative_to(ROOT)}: run `make book` or `make test`", returncode=2)
