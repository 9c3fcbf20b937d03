"""Gaps of the tools below us, closed in one place.

* sphinx-exercise registers writers for ``singlehtml`` pages, after which Sphinx no longer falls back
  to the ``html`` writers of other extensions, and the theorem boxes stop the build of the PDF.
* A proof of class ``dropdown`` begins with the word "Proof." and not with a title, and the script that
  folds boxes stops at the first such box; all proofs of a page have the same id. They get a title and no id.
* The start page that redirects to the first chapter has neither a title nor a language.
"""

from docutils import nodes
from sphinx_proof.nodes import proof_node

REDIRECT = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><link rel="icon" href="_static/favicon.svg">
<meta http-equiv="refresh" content="0; url={page}"></head>
<body><main><h1>{title}</h1><p><a href="{page}">Open the book</a></p></main></body>
</html>
"""


def fill_in_writers(app) -> None:
    if app.builder.name == "singlehtml":
        handlers = app.registry.translation_handlers
        handlers["singlehtml"] = handlers.get("html", {}) | handlers.get("singlehtml", {})


def title_proofs(app, doctree) -> None:
    for proof in doctree.findall(proof_node):
        box = proof[0]
        box["ids"] = []
        first = next(box.findall(nodes.Text))
        if "dropdown" in box["classes"] and first.startswith("Proof. "):
            first.parent.replace(first, nodes.Text(first.removeprefix("Proof. ")))
            box.insert(0, nodes.title("", "Proof"))


def write_start_page(app, exception) -> None:
    if not exception and app.builder.name == "html":
        page = app.builder.get_target_uri(app.config.root_doc)
        (app.outdir / "index.html").write_text(REDIRECT.format(title=app.config.html_title, page=page), "utf8")


def setup(app) -> dict:
    app.connect("builder-inited", fill_in_writers)
    app.connect("doctree-read", title_proofs)
    app.connect("build-finished", write_start_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
