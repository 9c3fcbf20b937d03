"""A chapter executed again gives the claims and figures of the book, bit for bit."""

from pathlib import Path

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


def test_same_seed_same_bits(tmp_path, monkeypatch):
    """One chapter after the other: kernels that start at the same moment can be given the same port."""
    book_cache.prepare_kernels()
    monkeypatch.setenv("DEEPLIMITS_SWEEPS", str(tmp_path))  # no grid may be read back
    assert {chapter.stem: places for chapter in CHAPTERS if (places := changed(chapter))} == {}


def changed(chapter: Path) -> list[tuple[int, str]]:
    """Cells and kinds of output that differ between the cached run of ``chapter`` and a new one."""
    again = book_cache.read(chapter)
    found = book_cache.executed(again)
    assert found, f"{chapter.name}: the chapter has not been executed with the present preset, seed and device"
    NotebookClient(again, kernel_name="python3", resources={"metadata": {"path": str(chapter.parent)}}).execute()
    old, new = results(found[0]), results(again)
    assert [place[:2] for place in old] == [place[:2] for place in new]
    return [place[:2] for place, other in zip(old, new, strict=True) if place != other]
