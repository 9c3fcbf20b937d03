"""Every page in a real browser: light and dark, on a desk and on a phone, with no network."""

from pathlib import Path

import axe_playwright_python
import pytest
from browser import MISSING, TYPESET, chromium, find_chromium, serve
from conftest import SITE

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
VIOLATIONS = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
  (v) => `${v.id}: ` + v.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(", "))"""
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


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page(browser, address, page, scheme, width):
    """No request leaves the book or fails, the console stays silent, TeX is right, axe-core finds nothing."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    tab, trouble = context.new_page(), []

    def route(request):
        if request.request.url.startswith((address, "data:", "blob:")):
            request.continue_()
        else:
            trouble.append(f"external request: {request.request.url}")
            request.abort()

    tab.route("**/*", route)
    tab.on("console", lambda message: trouble.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: trouble.append(f"script error: {error}"))
    tab.on("requestfailed", lambda request: trouble.append(f"failed request: {request.url}"))
    tab.on("response", lambda answer: answer.ok or trouble.append(f"{answer.status}: {answer.url}"))

    tab.goto(address + page, wait_until="load")
    tab.evaluate(TYPESET)
    tab.wait_for_timeout(500)
    trouble += [f"bad TeX: {text}" for text in tab.evaluate(BAD_TEX)]
    if (overflow := tab.evaluate(OVERFLOW)) > 0:
        trouble.append(f"the page is {overflow} pixels wider than the screen")
    tab.add_script_tag(path=AXE)
    trouble += [f"axe: {text}" for text in tab.evaluate(VIOLATIONS)]
    context.close()
    assert trouble == []
