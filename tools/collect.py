"""Write the ledger of the executed chapters, as `make book` does beside the pages, but without building any.

python tools/collect.py _build/ledgers/standard-7.json

Preset, seed and device are those of the environment, as for the chapters themselves.
"""

import sys
from pathlib import Path

import book_cache
import ledger


def main(target: Path) -> None:
    pages = sorted((book_cache.ROOT / "chapters").rglob("*.md"))
    named = [(path.relative_to(book_cache.ROOT).with_suffix("").as_posix(), path) for path in pages]
    chapters = [chapter for page, path in named if (chapter := ledger.read_chapter(page, path))]
    ledger.check(chapters)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".part")
    draft.write_text(ledger.as_json(chapters), "utf8")
    draft.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
