"""Offer each executed chapter, with its outputs, as .ipynb in the page's download menu."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

import book_cache

PREFACE = """This notebook is a page of the book *Deep ResNets at the Limit*. To run it, install the book's library:
`pip install -e .` in a checkout. Boxes, citations and references show as plain text outside the book.

"""


def macros(config) -> str:
    """The book's TeX macros, for the MathJax of a notebook."""
    table = config.mathjax3_config["tex"]["macros"]
    pairs = [(name, *(body if isinstance(body, list) else (body, 0))) for name, body in table.items()]
    return "$" + "".join(f"\\def\\{name}{'#1' if arity else ''}{{{body}}}" for name, body, arity in pairs) + "$"


def offer(app, page, template, context, doctree) -> None:
    """Write the executed notebook beside the page's source; the theme's menu looks for ``ipynb_source``."""
    notebook = doctree and book_cache.read(Path(app.env.doc2path(page)))
    found = notebook and book_cache.executed(notebook)
    if found and app.builder.name == "html":
        target = app.outdir / "_sources" / f"{page}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        notebook = found[0]
        notebook.cells.insert(0, new_markdown_cell(PREFACE + macros(app.config)))
        nbformat.write(notebook, target)
        context["ipynb_source"] = f"{page}.ipynb"


def setup(app) -> dict:
    app.connect("html-page-context", offer, priority=500)  # the theme builds the menu at 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}
