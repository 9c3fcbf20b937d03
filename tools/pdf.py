"""Print the one-page book to PDF with Chromium.

python tools/pdf.py --check           is there a Chromium? Asked before the chapters run.
python tools/pdf.py PAGE.html OUT.pdf
"""

import sys
from pathlib import Path

from browser import MISSING, TYPESET, chromium, find_chromium, serve

FOOTER = '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
# Code stays folded, and so do rows of claims where they are shown again.
OPEN_FOLDS = "() => document.querySelectorAll('details:not(.hide, .again)').forEach((d) => (d.open = true))"


def main(source: Path, target: Path) -> None:
    root = next(folder for folder in source.resolve().parents if (folder / "_static").is_dir())
    # Sphinx writes the page where the start page stands, but its links begin at the root of the site, and some name the
    # page itself; and it makes no search index for a single page
    here = f'href="{source.resolve().relative_to(root).as_posix()}#'
    (root / "book.html").write_text(source.read_text("utf8").replace(here, 'href="#'), "utf8")
    draft, missing = target.with_suffix(".part"), []
    with serve(root) as address, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(300_000)  # the whole book, perhaps on a busy machine
        page.on("response", lambda a: a.ok or a.url.endswith("searchindex.js") or missing.append(a.url))
        page.goto(address + "book.html", wait_until="load")
        page.evaluate(TYPESET)
        page.evaluate(OPEN_FOLDS)
        page.wait_for_timeout(1000)  # opened boxes fade in and would print blank
        page.pdf(
            path=draft,
            format="A4",
            margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            outline=True,
            tagged=True,
        )
    if missing:
        sys.exit("make pdf: the page could not load all its parts:\n" + "\n".join(missing))
    draft.replace(target)


if __name__ == "__main__":
    if find_chromium() is None:
        sys.exit(f"make pdf: {MISSING}")
    if sys.argv[1:] != ["--check"]:
        main(*map(Path, sys.argv[1:]))
