"""A claim's id, in the text of any page, is a link to its entry on the scorecard, with its title as the tooltip.

Only ids of the registry are linked, as whole words, and not in code, formulas, titles and links. The lines of claim
tables are HTML and bring their link along; its address is corrected for the page, and for the book on one page.
"""

import re

from docutils import nodes

from deeplimits import claims
from ledger import SCORECARD, link

ID = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, claims.registry()))})(?![\w-])")
ADDRESS = re.compile(r'"[./]*scorecard\.html#([^"]*)"')
NOT_IN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.title, nodes.reference)
NOT_IN += (nodes.target, nodes.Invisible, nodes.system_message)


def link_ids(app, doctree: nodes.document, page: str) -> None:
    for raw in list(doctree.findall(nodes.raw)):
        raw[:] = [nodes.Text(ADDRESS.sub(lambda m: f'"{link(app, page, SCORECARD, m[1])}"', raw.astext()))]
    for text in list(doctree.findall(nodes.Text)):
        if ID.search(text) and not any(isinstance(node, NOT_IN) for node in ancestors(text)):
            parts = ID.split(text)  # text and ids by turns
            new = [entry(app, page, part) if number % 2 else nodes.Text(part) for number, part in enumerate(parts)]
            text.parent.replace(text, [node for node in new if node.astext()])


def ancestors(node: nodes.Node):
    while node := node.parent:
        yield node


def entry(app, page: str, id: str) -> nodes.reference:
    address = link(app, page, SCORECARD, id.lower())
    return nodes.reference("", id, refuri=address, reftitle=claims.registry()[id].title, internal=True)


def setup(app) -> dict:
    app.connect("doctree-resolved", link_ids)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
