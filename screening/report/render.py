"""One `Document`, three renderings: a self-contained HTML page, JSON for machines, and a CSV a table."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from screening.report.document import (
    SCHEMA_VERSION,
    Bullets,
    Cell,
    Column,
    Document,
    Estimate,
    Figure,
    Headline,
    Hidden,
    Kind,
    NotEstimable,
    Paragraph,
    Remark,
    Section,
    Table,
)
from screening.report.notation import DASH, HIDDEN_WORD, NOT_ESTIMABLE_WORD, clean, interval, settled, written
from screening.storage import Folder

_KEY = re.compile(r"[a-z0-9][a-z0-9_]*")
_FORMULA = re.compile(r"[\s\x00]*[=+\-@\t\r＝＋－＠]")
"""What a spreadsheet may take for a formula (OWASP, CSV Injection), also behind blanks."""


# --- HTML --------------------------------------------------------------------------------------------------------------


def render_html(document: Document) -> str:
    """Return the report as one HTML page: no scripts, nothing fetched, styles and figures inside.

    Raises
    ------
    ValueError
        Keys of sections, tables or figures are unfit for an anchor or not unique.
    """
    _check_keys(document)
    return _environment().get_template("report.html").render(document=document, css=Markup(_template("report.css")))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(prose=_prose, css_text=_css_text, kind_of=_kind_of)
    environment.globals.update(cell=_cell, headline=_headline, is_number=_is_number, svg=_svg, hides=_hides)
    return environment


def _template(name: str) -> str:
    return resources.files("screening.report").joinpath("templates", name).read_text(encoding="utf-8")


def _kind_of(block: object) -> str:
    return type(block).__name__.lower()


def _prose(text: str) -> Markup:
    """Return a sentence with `...` set as code."""
    parts = clean(text).split("`")
    if len(parts) % 2 == 0:
        return escape(clean(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _css_text(text: str) -> Markup:
    """Return a text as it may stand between quotes in a style sheet."""
    return Markup(
        "".join(c if c.isascii() and (c.isalnum() or c in " .,;:()") else f"\\{ord(c):x} " for c in clean(text))
    )


def _svg(figure: Figure) -> Markup:
    """Return the drawing as it is: `figures.py` has escaped what stands in it."""
    return Markup(figure.svg)


def _is_number(column: Column) -> bool:
    return column.kind != "text"


def _hides(table: Table) -> bool:
    """Whether a cell of the table is hidden, so that a legend must say what the mark means."""
    return any(isinstance(cell, Hidden) for row in table.rows for cell in row)


def _cell(cell: Cell, kind: Kind, digits: int = 1, *, signed: bool = False) -> Markup:
    """Return a cell as HTML."""
    cell = settled(cell)
    if cell is None:
        return Markup(f'<span class="none">{DASH}</span>')
    if isinstance(cell, Hidden):
        return Markup(f'<span class="hidden">{HIDDEN_WORD}</span>')
    if isinstance(cell, NotEstimable):
        return Markup('<span class="none">{} <small>({})</small></span>').format(NOT_ESTIMABLE_WORD, clean(cell.why))
    if isinstance(cell, Estimate):
        value, bounds = interval(cell, kind, digits, signed=signed)
        return Markup('{} <span class="interval">{}</span>').format(value, bounds)
    if isinstance(cell, str):
        return Markup("<bdi>{}</bdi>").format(_prose(cell))
    return escape(written(cell, kind, digits, signed=signed))


def _headline(cell: Cell, kind: Kind) -> Markup:
    """Return a headline figure as HTML, its interval in a line of its own."""
    cell = settled(cell)
    if not isinstance(cell, Estimate):
        return Markup('<span class="value">{}</span>').format(_cell(cell, kind))
    value, bounds = interval(cell, kind)
    return Markup('<span class="value">{}</span> <span class="bounds">95% interval {}</span>').format(
        value, bounds.strip("()") + ("%" if kind.startswith("share") else "")
    )


def _check_keys(document: Document) -> None:
    for what, blocks in (
        ("section", document.sections),
        ("table", [*document.blocks(Table)]),
        ("figure", [*document.blocks(Figure)]),
    ):
        seen: set[str] = set()
        for block in blocks:
            if not _KEY.fullmatch(block.key) or block.key in seen:
                why = "is there twice" if block.key in seen else "is not made of a-z, 0-9 and _"
                raise ValueError(f"key {block.key!r} of a {what} {why}")
            seen.add(block.key)
    tables = {table.key: table for table in document.blocks(Table)}
    for figure in document.blocks(Figure):
        if figure.table is not None and figure.table not in tables:
            raise ValueError(f"figure {figure.key!r} refers to table {figure.table!r}, which is not in the report")
    for table in tables.values():
        heads = _csv_heads(table)
        if len(set(heads)) < len(heads):
            raise ValueError(f"table {table.key!r} has two columns of one name")
        for row in table.rows:
            if len(row) != len(table.columns):
                raise ValueError(f"table {table.key!r} has a row of {len(row)} cells for {len(table.columns)} columns")


# --- JSON --------------------------------------------------------------------------------------------------------------


def render_json(document: Document) -> bytes:
    """Return the report as JSON; `templates/report.schema.json` describes every key.

    Raises
    ------
    ValueError
        Keys are not unique, or ``facts`` hold a figure that is not finite.
    """
    _check_keys(document)
    value = {
        "schema_version": SCHEMA_VERSION,
        "title": document.title,
        "subtitle": document.subtitle,
        "notice": document.notice,
        "facts": dict(document.facts),
        "sections": [_json_section(section) for section in document.sections],
    }
    return (json.dumps(_cleaned(value), ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(one) for key, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, (list, tuple)) else value


def _json_section(section: Section) -> dict[str, Any]:
    return {"key": section.key, "title": section.title, "blocks": [_json_block(block) for block in section.blocks]}


def _json_block(block: object) -> dict[str, Any]:
    kind = {"type": _kind_of(block)}
    if isinstance(block, Paragraph):
        return {**kind, "text": block.text}
    if isinstance(block, Bullets):
        return {**kind, "items": list(block.items)}
    if isinstance(block, Remark):
        return {**kind, "level": block.level, "text": block.text}
    if isinstance(block, Headline):
        items = [
            {"label": label, "value": _json_cell(cell), "kind": kind_, "meaning": meaning}
            for label, cell, kind_, meaning in block.items
        ]
        return {**kind, "items": items}
    if isinstance(block, Figure):
        return {**kind, "key": block.key, "title": block.title, "text": block.text, "table": block.table}
    if isinstance(block, Table):
        return {
            **kind,
            "key": block.key,
            "title": block.title,
            "columns": [{"key": one.key, "title": one.title, "kind": one.kind} for one in block.columns],
            "records": [{key: _json_cell(cell) for key, cell in record.items()} for record in block.records()],
            "notes": list(block.notes),
        }
    raise TypeError(f"{type(block).__name__} is not a block of a document")


def _json_cell(cell: Cell) -> Any:
    cell = settled(cell)
    if isinstance(cell, Hidden):
        return {"hidden": True}
    if isinstance(cell, NotEstimable):
        return {"not_estimable": cell.why}
    if isinstance(cell, Estimate):
        return {"value": _tidy(cell.value), "low": _tidy(cell.low), "high": _tidy(cell.high)}
    return _tidy(cell) if isinstance(cell, float) else cell


def _tidy(value: float) -> float:
    """Return a figure without the noise of binary fractions: 10 significant digits."""
    return float(f"{value:.10g}") + 0.0


# --- CSV ---------------------------------------------------------------------------------------------------------------


def render_csvs(document: Document) -> dict[str, bytes]:
    """Return table key -> its CSV (RFC 4180, UTF-8), with columns ``x``, ``x_low`` and ``x_high`` for an interval.

    Shares are fractions. Where a figure is missing stands "hidden", "not estimable" or nothing. A text that a spreadsheet
    would take for a formula has an apostrophe before it.
    """
    _check_keys(document)
    return {table.key: _csv(table) for table in document.blocks(Table)}


def _csv(table: Table) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow([harmless(head) for head in _csv_heads(table)])
    for row in table.rows:
        fields: list[str | int | float] = []
        for column, cell in zip(table.columns, row, strict=True):
            fields += _csv_fields(cell, has_interval=_has_interval(column))
        writer.writerow(fields)
    return stream.getvalue().encode()


def _csv_heads(table: Table) -> list[str]:
    suffixes = {True: ("", "_low", "_high"), False: ("",)}
    return [column.key + suffix for column in table.columns for suffix in suffixes[_has_interval(column)]]


def _has_interval(column: Column) -> bool:
    return column.kind.endswith("_interval")


def _csv_fields(cell: Cell, *, has_interval: bool) -> list[str | int | float]:
    cell = settled(cell)
    width = 3 if has_interval else 1
    if cell is None:
        return [""] * width
    if isinstance(cell, Hidden):
        return [HIDDEN_WORD] * width
    if isinstance(cell, NotEstimable):
        return [NOT_ESTIMABLE_WORD] * width
    if isinstance(cell, Estimate):
        figures: list[str | int | float] = [_tidy(one) for one in (cell.value, cell.low, cell.high)]
        return figures[:width]
    one: str | int | float = (
        harmless(cell) if isinstance(cell, str) else _tidy(cell) if isinstance(cell, float) else cell
    )
    return [one, *[""] * (width - 1)]


def harmless(text: str) -> str:
    """Return a text as it may stand in a CSV cell: with an apostrophe before what a spreadsheet might compute."""
    text = clean(text)
    return f"'{text}" if _FORMULA.match(text) else text


# --- Files -------------------------------------------------------------------------------------------------------------


def write_report(document: Document, folder: Folder | Path | str) -> dict[str, str]:
    """Write report.html, report.json and tables/KEY.csv, each whole or not at all, the page last.

    Tables that an earlier report.json in the same folder names, and that this report has no more, are removed.

    Parameters
    ----------
    folder
        Made where it is not there.

    Returns
    -------
    dict
        "html", "json" and "tables/KEY" -> path.
    """
    place = folder if isinstance(folder, Folder) else Folder(str(folder))
    files: dict[str, tuple[str, bytes]] = {
        f"tables/{key}": (f"tables/{key}.csv", data) for key, data in render_csvs(document).items()
    }
    files["json"] = ("report.json", render_json(document))
    files["html"] = ("report.html", render_html(document).encode())
    stale = _tables_before(place) - {name for name, _ in files.values()}
    for name, data in files.values():
        place.write(name, data, mode=0o644)  # for sharing, unlike what lists patients
    for name in stale:
        place.remove(name)
    return {key: place.path(name) for key, (name, _) in files.items()}


def _tables_before(place: Folder) -> set[str]:
    try:
        before: Mapping[str, Any] = json.loads(place.read("report.json"))
        keys = [b["key"] for section in before["sections"] for b in section["blocks"] if b["type"] == "table"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
    return {f"tables/{key}.csv" for key in keys if isinstance(key, str) and _KEY.fullmatch(key)}
