"""A chapter executed again gives the claims and figures of the book, bit for bit."""

from pathlib import Path

import pytest
from nbclient import NotebookClient

import book_cache
from deeplimits import claims
from pages import ROOT

KEPT = (claims.MIME, "image/svg+xml", "image/png")
CHAPTERS = [path for path in sorted((ROOT / "chapters").rglob("*.md")) if book_cache.read(path)]


def results(notebook) -> list[tuple[int, str, object]]:
    """Claims and figures of an executed notebook, each with the number of its code cell."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        (number, kind, output["data"][kind])
        for number, cell in enumerate(cells)
        for output in cell.outputs
        for kind in KEPT
        if kind in output.get("data", {})
    ]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_same_seed_same_bits(chapter: Path):
    book_cache.prepare_kernels()
    again = book_cache.read(chapter)
    found = book_cache.executed(again)
    assert found, "the chapter has not been executed with the present preset, seed and device"
    NotebookClient(again, kernel_name="python3", resources={"metadata": {"path": str(chapter.parent)}}).execute()
    old, new = results(found[0]), results(again)
    assert [place[:2] for place in old] == [place[:2] for place in new]
    assert [place[:2] for place, other in zip(old, new, strict=True) if place != other] == []
