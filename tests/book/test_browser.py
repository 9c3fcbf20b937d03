"""Every page in a real browser: light and dark, on a desk and on a phone, with no network."""

from pathlib import Path

import axe_playwright_python
import pytest

from browser import MISSING, TYPESET, chromium, find_chromium, serve
from pages import SITE, every_page_but_start

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
VIOLATIONS = """async (options) => (await axe.run(document, options)).violations.map(
  (v) => `${v.id}: ` + v.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(", "))"""
ALL = {"preload": False, "resultTypes": ["violations"]}
ALL_BUT_COLOURS = ALL | {"rules": {"color-contrast": {"enabled": False}}}  # they do not depend on the width
BAD_TEX = "() => [...document.querySelectorAll('mjx-merror')].map((e) => e.title || e.textContent)"
OVERFLOW = "() => document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def address():
    with serve(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def test_start_page_leads_to_the_book(browser, address):
    tab = browser.new_page()
    tab.goto(address)
    tab.wait_for_url(address + "chapters/index.html")


@every_page_but_start
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page(browser, address, page, scheme):
    """No request leaves the book or fails, no warning on the console, no bad TeX, nothing for axe-core to say."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    tab, trouble = context.new_page(), []

    def route(request):
        if request.request.url.startswith((address, "data:", "blob:")):
            request.continue_()
        else:
            trouble.append(f"external request: {request.request.url}")
            request.abort()

    tab.route("**/*", route)
    tab.on("console", lambda m: m.type in ("warning", "error") and trouble.append(f"console: {m.text}"))
    tab.on("pageerror", lambda error: trouble.append(f"script error: {error}"))
    tab.on("requestfailed", lambda request: trouble.append(f"failed request: {request.url}"))
    tab.on("response", lambda answer: answer.ok or trouble.append(f"{answer.status}: {answer.url}"))

    tab.goto(address + page, wait_until="load")
    tab.evaluate(TYPESET)
    tab.wait_for_timeout(500)
    trouble += [f"bad TeX: {text}" for text in tab.evaluate(BAD_TEX)]
    tab.add_script_tag(path=AXE)
    for width, rules in ((1280, ALL), (420, ALL_BUT_COLOURS)):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_timeout(200)
        trouble += [f"axe at {width} pixels: {text}" for text in tab.evaluate(VIOLATIONS, rules)]
        if (overflow := tab.evaluate(OVERFLOW)) > 0:
            trouble.append(f"at {width} pixels the page is {overflow} pixels too wide")
    context.close()
    assert trouble == [], "\n".join(trouble)
