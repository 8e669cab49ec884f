"""The report in a real browser: quiet, self-contained, legible on a phone, and it prints."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from screening.report.document import Figure, Table
from screening.report.render import write_report
from tests.report.specimen import FORMULA, LONG, RIGHT_TO_LEFT, SCRIPT, specimen
from tests.report.test_report import archive
from tests.report.test_report import report as make_it

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
NO_BROWSER = "no browser on this machine"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip(NO_BROWSER)
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_report(specimen(), tmp_path_factory.mktemp("report"))["html"])


class Visit:
    """A page that keeps what it was told, what it asked for and whether it opened a dialog."""

    def __init__(self, page: Page, report: Path) -> None:
        self.page = page
        self.heard: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.heard.append(message.text))
        page.on("pageerror", lambda error: self.heard.append(str(error)))
        page.on("dialog", self._refuse)
        self.failed: list[str | None] = []
        page.on("requestfailed", lambda request: self.failed.append(request.failure))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(report.as_uri(), wait_until="load")

    def _refuse(self, dialog: Dialog) -> None:
        self.heard.append("dialog")
        dialog.dismiss()


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def visit(browser: Browser, report: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    page = browser.new_page(viewport=request.param)
    yield Visit(page, report)
    page.close()


def test_nothing_is_complained_of_and_nothing_fetched(visit: Visit, report: Path) -> None:
    visit.page.wait_for_timeout(200)
    assert visit.heard == []
    assert visit.asked == [report.as_uri()]


def test_the_policy_would_stop_a_script_and_a_request(browser: Browser, report: Path, tmp_path: Path) -> None:
    html = report.read_text(encoding="utf-8")
    evil = "<script>document.title = 'changed'</script><img src='http://127.0.0.1:9/x.png'></body>"
    (tmp_path / "evil.html").write_text(html.replace("</body>", evil), encoding="utf-8")
    page = browser.new_page()
    visit = Visit(page, tmp_path / "evil.html")
    page.wait_for_timeout(200)
    assert page.title() == specimen().title
    assert visit.failed == ["csp"]
    assert sum("Content Security Policy" in text for text in visit.heard) == 2
    page.close()


def test_the_page_is_no_wider_than_the_screen(visit: Visit) -> None:
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= visit.page.viewport_size["width"]  # type: ignore[index]
    # Only the scrolling boxes of tables may hold something wider than themselves.
    inside = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .skip')
        && e.getClientRects().length)
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
        .map(e => e.outerHTML.slice(0, 80))"""
    assert visit.page.evaluate(inside) == []


def test_every_figure_has_its_text_for_those_who_do_not_see_it(visit: Visit) -> None:
    figures = list(specimen().blocks(Figure))
    assert visit.page.locator("figure svg").count() == len(figures)
    for figure in figures:
        drawing = visit.page.locator(f"#figure-{figure.key}").get_by_role("img", name=figure.title, exact=True)
        assert drawing.count() == 1
        assert drawing.locator("desc").text_content() == figure.text.replace(
            "\N{RIGHT-TO-LEFT OVERRIDE}", "\N{REPLACEMENT CHARACTER}"
        )
        box = drawing.bounding_box()
        assert box is not None
        assert box["width"] > 320
        assert box["height"] > 60
        assert visit.page.locator(f"#figure-{figure.key} .notes").is_visible()


def test_figures_are_legible_on_this_screen(visit: Visit) -> None:
    heights = visit.page.evaluate(
        "() => [...document.querySelectorAll('figure svg text')].map(e => parseFloat(getComputedStyle(e).fontSize)"
        " * e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert min(heights) > 7.5
    assert max(heights) < 20


def test_the_table_of_contents_leads_to_every_section(visit: Visit) -> None:
    page = visit.page
    summary = page.locator("details.contents summary")
    for section in specimen().sections:
        if summary.is_visible() and not page.locator("details.contents[open]").count():
            summary.click()
        links = [link for link in page.get_by_role("link", name=section.title, exact=True).all() if link.is_visible()]
        assert len(links) == 1
        links[0].click()
        assert page.evaluate("location.hash") == f"#section-{section.key}"
        top = page.locator(f"#section-{section.key} h2").bounding_box()
        assert top is not None
        assert -5 < top["y"] < page.viewport_size["height"]  # type: ignore[index]


def test_hostile_names_appear_as_text(visit: Visit) -> None:
    table = visit.page.locator("#table-by_site")
    for name in (SCRIPT, FORMULA, LONG, RIGHT_TO_LEFT):
        assert table.get_by_text(name, exact=True).is_visible()
    assert visit.page.locator("script, img, iframe").count() == 0


def test_long_and_wide_tables_scroll_in_their_own_box(visit: Visit) -> None:
    long = visit.page.locator("#table-by_month .scroll")
    assert long.evaluate("e => e.scrollHeight > e.clientHeight + 1000 && e.clientHeight < 700")
    wide = visit.page.locator("#table-records_by_site .scroll")
    assert wide.evaluate("e => { e.scrollLeft = 1e6; return e.scrollLeft > 100 }")


def test_the_flow_adds_up_as_it_is_shown(visit: Visit) -> None:
    elements = visit.page.locator("#figure-flow svg [data-step]").all()
    shown: dict[str, int] = {}
    for element in elements:
        text = element.text_content() or ""
        assert re.fullmatch(r"[\d,]+|hidden", text)
        if text != "hidden":
            shown[element.get_attribute("data-step") or ""] = int(text.replace(",", ""))
    out = sum(shown[step] for step in ("outside_period", "not_screened", "changed", "rejected"))
    assert shown["catalogued"] == out + shown["scored"] > 0
    assert shown["scored"] == shown["duplicates"] + shown["repeats"] + shown["index"]
    assert shown["patients_catalogued"] == shown["patients_without_score"] + shown["patients"]
    table = {row[0]: row[1] for row in next(t for t in specimen().blocks(Table) if t.key == "flow").rows}
    assert all(
        table[step.replace("_", " ")] == count for step, count in shown.items() if step.replace("_", " ") in table
    )


def test_the_first_figure_is_seen_without_scrolling(visit: Visit) -> None:
    box = visit.page.locator(".headline .value").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < visit.page.viewport_size["height"]  # type: ignore[index]


def test_what_is_read_stands_out_enough_from_what_is_behind_it(visit: Visit) -> None:
    found: list[dict[str, Any]] = visit.page.evaluate(CONTRAST)
    assert len(found) > 200
    assert [one for one in found if one["ratio"] < 4.5] == []


CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const seen = [...document.querySelectorAll('main *, .notice, nav a')].filter(e => !e.closest('svg')
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length);
  return seen.map(e => { const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(behind(e))].sort((x, y) => x - y);
    return { ratio: (b + .05) / (a + .05), what: e.outerHTML.slice(0, 80) }; });
}"""


def test_it_prints_on_several_pages_and_nothing_is_cut_off(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    pdf = page.pdf(prefer_css_page_size=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 5 < pages < 40
    assert re.search(rb"/MediaBox\s*\[0 0 59[45]", pdf)  # A4
    assert re.search(rb"/MediaBox\s*\[0 0 84[12]", pdf)  # and across, for the widest table
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 658, "height": 900})  # 174 mm, between the margins
    assert not page.locator("nav.side").is_visible()
    assert page.locator("#table-by_month .scroll").evaluate("e => e.scrollHeight <= e.clientHeight + 1")
    wide = (
        "() => [...document.querySelectorAll('.table:not(.many) table, svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert max(page.evaluate(wide)) <= 658
    across = page.locator("#table-records_by_site table").evaluate("e => e.getBoundingClientRect().width")
    assert across <= 1017  # 269 mm, between the margins of a page across
    page.close()


@pytest.mark.parametrize("exact", [False, True], ids=["protected", "exact"])
@pytest.mark.parametrize("screen", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_report_from_published_runs_is_as_quiet_and_adds_up(
    browser: Browser, tmp_path: Path, screen: Any, exact: bool
) -> None:
    runs, catalog = archive(tmp_path, n=500)
    of = make_it(runs, catalog, exact=exact)
    page = browser.new_page(viewport=screen)
    seen = Visit(page, Path(write_report(of.document, tmp_path / "out")["html"]))
    page.wait_for_timeout(100)
    assert seen.heard == []
    assert len(seen.asked) == 1
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    figures = page.locator("figure")
    assert figures.count() == len(list(of.document.blocks(Figure))) >= 8
    for at in range(figures.count()):
        assert len(figures.nth(at).locator("svg desc, svg title").first.text_content() or "") > 10
    counts = {
        mark.get_attribute("data-step"): mark.get_attribute("data-count") for mark in page.locator("[data-step]").all()
    }
    known = {step: int(count) for step, count in counts.items() if step and count and count.isdigit()}
    slack = 0 if exact else 5 * 6
    assert abs(known["scored"] - known["index"] - known["duplicates"] - known["repeats"]) <= slack
    if "catalogued" in known:
        left = sum(known.get(step, 0) for step in ("outside_period", "not_screened", "changed", "rejected"))
        assert abs(known["catalogued"] - known["scored"] - left) <= slack
    page.close()
