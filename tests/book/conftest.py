import pytest

from pages import ROOT, SITE, START


def pytest_collection_modifyitems():
    """Say it in one line if there is nothing to test."""
    if not (SITE / START).exists():
        pytest.exit(f"no book in {SITE.relative_to(ROOT)}: run `make book` or `make test`", returncode=2)
