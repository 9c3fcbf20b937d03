"""The built pages under test: below DEEPLIMITS_SITE, or the published book if that is not set."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / os.environ.get("DEEPLIMITS_SITE", "_build/html")
START = "index.html"  # sends the reader to the first chapter
SCORECARD = "chapters/scorecard.html"
LEDGER = json.loads((SITE.parent / "claims.json").read_text("utf8")) if SITE.exists() else {"claims": [], "seconds": {}}
RECORDS = LEDGER["claims"]
PAGES = sorted(
    page for page in (path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html")) if not page.startswith("_")
)
every_page = pytest.mark.parametrize("page", PAGES)
every_page_but_start = pytest.mark.parametrize("page", [page for page in PAGES if page != START])


@cache
def parse(page: str) -> BeautifulSoup:
    return BeautifulSoup((SITE / page).read_text("utf8"), "html.parser")
