"""Offer each executed chapter, with its outputs, as .ipynb in the page's download menu."""

from pathlib import Path

import nbformat

import book_cache


def offer(app, page, template, context, doctree) -> None:
    """Write the executed notebook beside the page's source; the theme's menu looks for ``ipynb_source``."""
    notebook = doctree and book_cache.read(Path(app.env.doc2path(page)))
    found = notebook and book_cache.executed(notebook)
    if found and app.builder.name == "html":
        target = app.outdir / "_sources" / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(found[0], target)
        context["ipynb_source"] = f"{page}.ipynb"


def setup(app) -> dict:
    app.connect("html-page-context", offer, priority=500)  # the theme builds the menu at 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}
