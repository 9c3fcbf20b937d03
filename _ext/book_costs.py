"""What each chapter of this build took: seconds on one core and the most memory, as the build measured them.

``{costs}`` is the table; the role ``{cost}`` gives one of its totals in running text.
"""

from math import isnan

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

from deeplimits import runtime
from deeplimits.checks import one_of
from ledger import Chapter

GIB = 2**30


def totals(chapters: list[Chapter]) -> dict[str, str]:
    """What ``{cost}`` knows: settings, minutes of all chapters, minutes of the longest, GiB of the largest process."""
    seconds = [chapter.seconds for chapter in chapters]
    known = [chapter.memory for chapter in chapters if not isnan(chapter.memory)]
    run = runtime.current()
    return {
        "preset": run.preset,
        "device": str(run.device),
        "minutes": f"{sum(seconds) / 60:.1f}",
        "longest": f"{max(seconds) / 60:.1f}",
        "GiB": f"{max(known) / GIB:.1f}" if known else "an unknown number of",
    }


def table(chapters: list[Chapter]) -> str:
    """Markdown: a row for each chapter with code, in the order of the book, and the totals."""
    lines = ["| page | seconds | peak memory, GiB |", "|:--|--:|--:|"]
    for chapter in chapters:
        memory = "unknown" if isnan(chapter.memory) else f"{chapter.memory / GIB:.2f}"
        lines.append(f"| {{doc}}`{chapter.title} </{chapter.page}>` | {chapter.seconds:.0f} | {memory} |")
    known = [chapter.memory for chapter in chapters if not isnan(chapter.memory)]
    most = f"{max(known) / GIB:.2f}" if known else "unknown"
    lines.append(f"| **all; the largest** | **{sum(c.seconds for c in chapters):.0f}** | **{most}** |")
    return "\n".join(lines)


class Costs(SphinxDirective):
    """``{costs}``"""

    def run(self):
        self.env.note_reread()
        return self.parse_text_to_nodes(table(self.env.app.ledger))


class Cost(SphinxRole):
    """``{cost}`minutes` ``"""

    def run(self):
        self.env.note_reread()
        known = totals(self.env.app.ledger)
        try:
            return [nodes.Text(known[one_of("what {cost} gives", self.text, known)])], []
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]


def setup(app) -> dict:
    app.add_directive("costs", Costs)
    app.add_role("cost", Cost())
    return {"parallel_read_safe": False, "parallel_write_safe": True}
