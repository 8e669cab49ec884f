"""Three renderings of one document: nothing lost, nothing run, nothing that a spreadsheet would compute."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from screening.report import render
from screening.report.document import (
    HIDDEN,
    SCHEMA_VERSION,
    Cell,
    Column,
    Document,
    Estimate,
    Figure,
    Kind,
    NotEstimable,
    Paragraph,
    Section,
    Table,
)
from screening.report.notation import clean, settled, written
from screening.report.render import render_csvs, render_html, render_json, write_report
from screening.report.svg import contrast
from screening.storage import Folder
from tests.report.specimen import EMOJI, FORMULA, LONG, NO_BREAK, RIGHT_TO_LEFT, SCRIPT, specimen

DOCUMENT = specimen()
HTML = render_html(DOCUMENT)
VOID = {"meta", "br", "img", "link", "hr", "input"}


def small(*blocks: Any) -> Document:
    return Document("Title", "Subtitle", "Notice.", {}, [Section("one", "One", blocks)])


class Page(HTMLParser):
    """Collects ids, links, texts and tags, and refuses what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


PAGE = Page(HTML)


# --- Notation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "kind", "expected"),
    [
        (Estimate(0.123, 0.11, 0.136), "share_interval", "12.3% (11.0–13.6)"),
        (Estimate(0.0, 0.0, 0.012), "share_interval", "0% (0–1.2)"),
        (Estimate(0.0004, 0.0, 0.99999), "share_interval", "<0.1% (0–>99.9)"),
        (Estimate(-0.2, -0.3, 0.1), "number_interval", "−0.2 (−0.3 to 0.1)"),
        (1_234_567, "count", "1,234,567"),
        (np.int64(12), "count", "12"),
        (np.float32(0.5), "share", "50.0%"),
        (0, "count", "0"),
        (1.0, "share", "100%"),
        (-0.0213, "share", "−2.1%"),
        (-0.0, "number", "0"),
        (-0.00001, "number", "0.0"),
        (12_345.678, "number", "12,345.7"),
        (math.nan, "number", "not estimable"),
        (math.inf, "count", "not estimable"),
        (Estimate(0.1, math.nan, 0.2), "share_interval", "not estimable"),
        (HIDDEN, "count", "hidden"),
        (NotEstimable("why"), "share", "not estimable"),
        (None, "share", "–"),
        (True, "text", "yes"),
    ],
)
def test_a_cell_in_words(cell: Cell, kind: Kind, expected: str) -> None:
    assert written(cell, kind) == expected


def test_differences_carry_their_sign() -> None:
    assert written(0.0213, "share", signed=True) == "+2.1%"
    assert written(Estimate(0.01, -0.02, 0.04), "share_interval", signed=True) == "+1.0% (−2.0 to +4.0)"


def test_what_is_no_cell_is_refused() -> None:
    with pytest.raises(TypeError, match="a cell cannot hold list"):
        settled([1])  # type: ignore[arg-type]


def test_clean_keeps_what_is_text() -> None:
    for text in (RIGHT_TO_LEFT, EMOJI, "a\nb\tc", "ß"):
        assert clean(text) == text
    assert clean("\x00\x1b\ud800\N{RIGHT-TO-LEFT OVERRIDE}") == "\N{REPLACEMENT CHARACTER}" * 4


# --- HTML --------------------------------------------------------------------------------------------------------------


def test_the_page_runs_nothing_and_fetches_nothing() -> None:
    tags = {tag for tag, _ in PAGE.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    for tag, attributes in PAGE.tags:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
        href = attributes.get("href")
        assert href is None or (tag == "a" and re.fullmatch(r"#[\w-]+|tables/[a-z0-9_]+\.csv", href))
    style = re.search(r"<style>(.*?)</style>", HTML, re.DOTALL)
    assert style
    assert not re.search(r"url\(|@import|@font-face", style[1])
    policy = next(
        a["content"] for t, a in PAGE.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_the_page_says_its_language_title_and_notice_twice() -> None:
    assert PAGE.tags[0][0] == "html"
    assert PAGE.tags[0][1] == {"lang": "en"}
    assert HTML.startswith("<!DOCTYPE html>")
    assert PAGE.text.count(DOCUMENT.notice) == 2
    assert any(a.get("name") == "viewport" for _, a in PAGE.tags)
    assert [tag for tag, _ in PAGE.tags].count("h1") == 1


def test_every_link_has_its_place_and_every_section_its_link() -> None:
    ids = [a["id"] for _, a in PAGE.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = {(a["href"] or "")[1:] for _, a in PAGE.tags if (a.get("href") or "").startswith("#")}
    assert links <= set(ids)
    assert {f"section-{section.key}" for section in DOCUMENT.sections} <= links


def test_hostile_names_are_shown_as_they_are() -> None:
    for name in (SCRIPT, FORMULA, RIGHT_TO_LEFT, EMOJI, LONG, NO_BREAK, '"><img src=x onerror=alert(2)>', "]]>&amp;"):
        assert name in PAGE.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in HTML
    assert "\x00" not in HTML


@pytest.mark.parametrize("place", ["title", "subtitle", "notice"])
def test_no_part_of_a_document_is_trusted(place: str) -> None:
    evil = '</style></title><script>alert(1)</script>{{ 7*7 }}"; } * { display: none } `'
    page = Page(render_html(replace(small(Paragraph("x")), **{place: evil})))  # type: ignore[arg-type]
    assert "script" not in {tag for tag, _ in page.tags}
    assert "{{ 7*7 }}" in page.text


def test_keys_column_titles_notes_and_why_are_not_trusted() -> None:
    table = Table("t", SCRIPT, [Column("a", SCRIPT, "count")], [(NotEstimable(SCRIPT),), (HIDDEN,)], [SCRIPT])
    page = Page(render_html(small(table, Paragraph(f"`{SCRIPT}` and `odd"))))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(SCRIPT) >= 5


def test_words_between_backticks_are_code() -> None:
    assert "<p>Draw with <code>screening validate</code>.</p>" in render_html(
        small(Paragraph("Draw with `screening validate`."))
    )


def test_nothing_in_a_table_is_dropped() -> None:
    for table in DOCUMENT.blocks(Table):
        assert table.title in PAGE.text
        for row in table.rows:
            for cell, column in zip(row, table.columns, strict=True):
                assert " ".join(written(cell, column.kind, column.digits, signed=column.signed).split()) in PAGE.text


def test_hidden_cells_have_a_legend_and_reasons_stand_beside_what_is_not_estimable() -> None:
    legend = "Not shown, so that no small group can be recognised; it is not zero."
    hiding = sum(any(cell is HIDDEN for row in table.rows for cell in row) for table in DOCUMENT.blocks(Table))
    assert PAGE.text.count(legend) == hiding > 0
    assert "Se + Sp is not above 1" in PAGE.text
    assert not re.search(r"\b[Nn]a[Nn]\b|[Ii]nfinity|\bNone\b", PAGE.text)


def test_tables_have_captions_and_scopes_and_can_be_scrolled_by_keyboard() -> None:
    tags = [tag for tag, _ in PAGE.tags]
    assert tags.count("caption") == tags.count("table") == len(list(DOCUMENT.blocks(Table)))
    assert all(a.get("scope") in ("col", "row") for t, a in PAGE.tags if t == "th")
    regions = [a for _, a in PAGE.tags if a.get("role") == "region"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in regions)


def test_a_template_that_misses_something_fails_instead_of_leaving_a_hole() -> None:
    with pytest.raises(UndefinedError):
        render._environment().from_string("{{ nothing }}").render()


def test_the_palette_of_the_page_is_legible() -> None:
    css = resources.files("screening.report").joinpath("templates", "report.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", css))
    for ink in ("ink", "quiet", "link", "warning"):
        for ground in ("paper", "faint", "warning-paper", "info-paper"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


# --- Keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Table("../x", "T", [Column("a", "A")], [])], "key '../x' of a table is not made of a-z, 0-9 and _"),
        ([Table("x", "T", [Column("a", "A")], [])] * 2, "key 'x' of a table is there twice"),
        ([Table("x", "T", [Column("a", "A")], [(1, 2)])], "table 'x' has a row of 2 cells for 1 columns"),
        ([Table("x", "T", [Column("a", "A", "share_interval"), Column("a_low", "A")], [])], "two columns of one name"),
        ([Figure("f", "F", "<svg/>", "text", "gone")], "figure 'f' refers to table 'gone'"),
    ],
)
@pytest.mark.parametrize("rendering", [render_html, render_json, render_csvs])
def test_a_document_that_contradicts_itself_is_refused(rendering: Any, blocks: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rendering(small(*blocks))


# --- JSON --------------------------------------------------------------------------------------------------------------

SCHEMA = json.loads(resources.files("screening.report").joinpath("templates", "report.schema.json").read_text())


def test_json_is_what_its_schema_says() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    value = json.loads(render_json(DOCUMENT))
    jsonschema.validate(value, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert value["schema_version"] == SCHEMA_VERSION == SCHEMA["properties"]["schema_version"]["const"]


def test_the_schema_describes_every_key() -> None:
    def walk(node: Any) -> None:
        for name, one in node.get("properties", {}).items():
            assert "description" in one or "$ref" in one, name
        for one in node.values():
            for inner in one if isinstance(one, list) else [one]:
                if isinstance(inner, dict):
                    walk(inner)

    walk(SCHEMA)


@pytest.mark.parametrize("damage", ["columns", "records", "title"])
def test_the_schema_notices_what_is_missing(damage: str) -> None:
    value = json.loads(render_json(DOCUMENT))
    table = next(block for section in value["sections"] for block in section["blocks"] if block["type"] == "table")
    del table[damage]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, SCHEMA)


def test_json_cells_keep_their_figures_and_say_why_there_is_none() -> None:
    row: tuple[Cell, ...] = (
        Estimate(0.1, 0.05, 0.3),
        HIDDEN,
        NotEstimable("nobody"),
        None,
        5,
        0.1 + 0.2,
        math.nan,
        "=1",
    )
    columns = [Column(f"c{i}", "C", "share_interval") for i in range(len(row))]
    value = json.loads(render_json(small(Table("t", "T", columns, [row]))))
    assert list(value["sections"][0]["blocks"][0]["records"][0].values()) == [
        {"value": 0.1, "low": 0.05, "high": 0.3},
        {"hidden": True},
        {"not_estimable": "nobody"},
        None,
        5,
        0.3,
        {"not_estimable": "not a finite figure"},
        "=1",
    ]


def test_json_holds_no_drawing_but_what_it_says() -> None:
    text = render_json(DOCUMENT).decode()
    assert "<svg" not in text
    figures = [b for s in json.loads(text)["sections"] for b in s["blocks"] if b["type"] == "figure"]
    assert [one["text"] for one in figures] == [clean(figure.text) for figure in DOCUMENT.blocks(Figure)]


def test_json_has_no_word_for_infinity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render_json(replace(DOCUMENT, facts={"x": math.inf}))


# --- CSV ---------------------------------------------------------------------------------------------------------------


def test_csv_goes_round_through_python_and_pandas() -> None:
    for table in DOCUMENT.blocks(Table):
        data = render_csvs(DOCUMENT)[table.key]
        rows = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
        frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, lineterminator=None)
        assert len(rows) == len(frame) + 1 == len(table.rows) + 1
        assert list(frame.columns) == rows[0]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert frame.to_numpy().tolist() == [[one.replace("\r\n", "\n") for one in row] for row in rows[1:]]


def test_csv_figures_are_figures() -> None:
    frame = pd.read_csv(io.BytesIO(render_csvs(DOCUMENT)["by_age"]), na_values=["hidden", "not estimable"])
    assert list(frame.columns)[1:] == [
        "patients",
        "apparent",
        "apparent_low",
        "apparent_high",
        "adjusted",
        "adjusted_low",
        "adjusted_high",
    ]
    assert frame.dtypes.iloc[1:].map(lambda kind: kind.kind).isin(["i", "f"]).all()
    assert (frame["adjusted_low"] <= frame["adjusted"]).iloc[1:].all()
    assert frame["patients"].isna().tolist() == [True] + [False] * 7


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", " =1", "＝1", FORMULA, "\x00=1"])
def test_no_text_is_a_formula(text: str) -> None:
    table = Table("t", "T", [Column("a", "A"), Column("b", "B", "number")], [(text, -1.5)])
    rows = list(csv.reader(io.StringIO(render_csvs(small(table))["t"].decode(), newline="")))
    assert rows[1][0][0] in "'\N{REPLACEMENT CHARACTER}"
    assert rows[1][0].endswith(text[-1])
    assert rows[1][1] == "-1.5"


def test_csv_follows_rfc_4180() -> None:
    table = Table("t", "T", [Column("a", "A"), Column("b", "B", "count")], [('a,"b"\nc', 1)])
    assert render_csvs(small(table))["t"] == b'a,b\r\n"a,""b""\nc",1\r\n'


# --- Agreement ---------------------------------------------------------------------------------------------------------


def test_html_json_and_csv_hide_the_same_cells() -> None:
    value = json.loads(render_json(DOCUMENT))
    for block in (b for s in value["sections"] for b in s["blocks"] if b["type"] == "table"):
        table = next(one for one in DOCUMENT.blocks(Table) if one.key == block["key"])
        hidden = sum(cell is HIDDEN for row in table.rows for cell in row)
        assert hidden == sum(cell == {"hidden": True} for record in block["records"] for cell in record.values())
        part = HTML[HTML.index(f'id="table-{table.key}"') :]
        part = part[: part.index("</table>")]
        assert part.count('<span class="hidden">') == hidden
        rows = list(csv.reader(io.StringIO(render_csvs(DOCUMENT)[table.key].decode(), newline="")))
        width = {c.key: 3 if c.kind.endswith("_interval") else 1 for c in table.columns}
        expected = sum(width[key] for record in table.records() for key, cell in record.items() if cell is HIDDEN)
        assert sum(field == "hidden" for row in rows for field in row) == expected


# --- Files -------------------------------------------------------------------------------------------------------------


def test_a_report_is_written_whole_and_the_same_again(tmp_path: Path) -> None:
    paths = write_report(DOCUMENT, tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"report.html", "report.json", *(f"tables/{table.key}.csv" for table in DOCUMENT.blocks(Table))}
    assert set(paths) == {"html", "json", *(f"tables/{table.key}" for table in DOCUMENT.blocks(Table))}
    before = {name: Path(path).read_bytes() for name, path in paths.items()}
    write_report(specimen(), Folder(str(tmp_path / "out")))
    assert {name: Path(path).read_bytes() for name, path in paths.items()} == before


def test_a_table_that_the_report_has_no_more_is_removed_and_nothing_else(tmp_path: Path) -> None:
    write_report(small(Table("old", "T", [Column("a", "A")], [("x",)])), tmp_path)
    (tmp_path / "tables" / "mine.csv").write_text("mine")
    write_report(small(Table("new", "T", [Column("a", "A")], [("x",)])), tmp_path)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"mine.csv", "new.csv"}


@pytest.mark.parametrize(
    "before", [b"", b"[]", b'{"sections": 3}', b'{"sections": [{"blocks": [{"type": "table", "key": "../../x"}]}]}']
)
def test_a_strange_file_in_its_place_is_replaced(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "report.json").write_bytes(before)
    write_report(small(Paragraph("x")), tmp_path)
    assert json.loads((tmp_path / "report.json").read_bytes())["title"] == "Title"


def test_nothing_is_written_of_a_document_that_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_report(small(Table("t", "T", [Column("a", "A")], [(object(),)])), tmp_path)  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []
