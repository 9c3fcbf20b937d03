"""What every built page must be, read from its HTML."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pages import SITE, every_page, parse


def ids(page: Path) -> set[str]:
    return {tag["id"] for tag in parse(page.relative_to(SITE).as_posix()).find_all(id=True)}


def broken(page: str, link: str) -> bool:
    """Whether a link of ``page`` into the site leads to no file, or to no element of a page."""
    url = urlsplit(link)
    target = (SITE / page).parent / unquote(url.path) if url.path else SITE / page
    target = target.resolve()
    if not target.is_file():
        return True
    return bool(url.fragment) and target.suffix == ".html" and unquote(url.fragment) not in ids(target)


@every_page
def test_internal_links_lead_somewhere(page):
    links = [tag[key] for key in ("href", "src") for tag in parse(page).find_all(attrs={key: True})]
    inside = [link for link in links if not urlsplit(link).scheme and not urlsplit(link).netloc and link != "#"]
    assert inside
    assert [link for link in inside if broken(page, link)] == []


@every_page
def test_nothing_is_loaded_from_elsewhere(page):
    loaded = [tag["src"] for tag in parse(page).find_all(src=True)]
    loaded += [tag["href"] for tag in parse(page).select("link[href]") if "canonical" not in tag.get("rel", [])]
    assert [url for url in loaded if urlsplit(url).netloc] == []


@every_page
def test_figures_have_a_description(page):
    """Sphinx falls back to the file's name where a figure has no alt text."""
    images = parse(page).select("article img, .bd-article img")
    silent = [img["src"] for img in images if not img.get("alt", "").strip() or Path(img["src"]).name in img["alt"]]
    assert silent == []


@every_page
def test_no_cell_shows_an_error(page):
    assert [tag.get_text()[-200:] for tag in parse(page).select(".cell_output .traceback, .cell_output .stderr")] == []
