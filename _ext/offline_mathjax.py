"""Serve MathJax from the book itself, so that formulas need no network.

The files come from the package sphinx-mathjax-offline; of its 24 MB only the 3 MB are copied that
the TeX to HTML path can load. They are copied when the build is finished and not put into _static,
for Jupyter Book would ask every page to load every script it finds there.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

NEEDED = (
    "tex-chtml.js",
    "input/tex/extensions",
    "output/chtml/fonts/woff-v2",
    "a11y",
    "sre/mathmaps/en.json",
    "sre/mathmaps/base.json",
)


def copy(app, exception) -> None:
    """Copy what is NEEDED below _static/mathjax of a finished HTML build."""
    if exception or app.builder.format != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in NEEDED:
        target = app.outdir / "_static" / "mathjax" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / name, target)


def setup(app) -> dict:
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
