"""The report in a real browser: both color schemes, a phone, paper, the keyboard, and nothing from the network."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser_finding import running_browser, watched_pages
from chain_making import run_command_line
from report_making import MODEL, make_report_workspace

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = make_report_workspace(tmp_path_factory.mktemp("browser"))
    out = root / "report.html"
    assert run_command_line("report", "--model", MODEL, "--workspace", root, "--out", out)[0] == 0
    return out.as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Opens the report; when the test ends, nothing was written to the console or requested beside the file."""
    with watched_pages(browser, address, allowed=(address,)) as opened:
        yield opened


def lightness(color: str) -> float:
    """Relative luminance of `rgb(…)` (WCAG 2.2)."""
    parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_color_schemes(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": 1180, "height": 900})
    colors = page.evaluate(
        """() => [...document.querySelectorAll('p, th, td, caption, figcaption, summary, a, h1, h2, .state, .what')]
        .filter(e => e.checkVisibility()).map(e => {
          let behind = e;
          while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)' && behind.parentElement)
            behind = behind.parentElement;
          return [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor, e.textContent.slice(0, 40)];
        })"""
    )
    assert len(colors) > 100
    for text, behind, content in colors:
        light, dark = sorted((lightness(text), lightness(behind)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (content, text, behind)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (lightness(background) > 0.5) == (scheme == "light")


@pytest.mark.parametrize("width", [320, 390, 1180])
def test_no_width_scrolls_sideways(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 844})
    for language in ("ko", "en"):
        page.locator(f"label:has(#show-{language})").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_switch_shows_one_language(open_page: Open) -> None:
    page = open_page()
    title = page.locator("h1")
    assert title.inner_text() == "tiny: report of the chain"
    page.locator("label:has(#show-ko)").click()
    assert title.inner_text() == "tiny: 체인 보고서"
    assert page.locator("[lang=en]:not(html) >> visible=true").count() == 0
    assert page.locator("svg text[lang=ko] >> visible=true").count() > 0
    page.locator("label:has(#show-en)").click()
    assert page.locator("body [lang=ko] >> visible=true").count() == 0


def test_the_keyboard_reaches_the_switch_and_a_question(open_page: Open) -> None:
    page = open_page()
    focused = "document.activeElement.id || document.activeElement.tagName"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "show-en"
    page.keyboard.press("ArrowLeft")
    assert page.locator("h1").inner_text() == "tiny: 체인 보고서"
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate(focused) == "SUMMARY":
            break
    assert page.evaluate(focused) == "SUMMARY"
    page.keyboard.press("Enter")
    opened = page.locator("#flips details[open]")
    assert opened.count() == 1
    assert "가장 알맞은 것은?" in opened.inner_text()


def test_hostile_names_run_nothing(open_page: Open) -> None:
    page = open_page()
    assert page.title() == "tiny: report of the chain"
    assert page.locator("script, img, iframe").count() == 0
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert "<script>document.title='stolen'</script>" in page.locator("#flips").inner_text()


def test_paper(open_page: Open, tmp_path: Path) -> None:
    page = open_page(color_scheme="dark", viewport={"width": 703, "height": 1000})  # A4 without its margins
    page.emulate_media(media="print", color_scheme="dark")
    assert lightness(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert not page.locator(".switch").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("#flips details table").first.is_visible()
    cut_off = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.evaluate(cut_off) == 0
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes()[:5] == b"%PDF-"
