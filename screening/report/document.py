"""What a report says, before anybody decides how it looks: sections of text, tables and figures.

HTML, JSON and CSV are three renderings of one `Document`, so that they cannot disagree. Nothing in a shareable document is
an exact count: `disclosure.py` has rounded or hidden it, and every estimate was computed from what it left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 2
"""Of report.json and of the CSV tables."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval. Shares are fractions, not percentages."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Hidden:
    """Stands where a figure is not shown, so that no small group can be recognised."""


@dataclass(frozen=True)
class NotEstimable:
    """Stands where a figure cannot be computed, and says why."""

    why: str


HIDDEN = Hidden()

Cell = str | int | float | Estimate | Hidden | NotEstimable | None
Kind = Literal["text", "count", "share", "share_interval", "number", "number_interval"]
"""How a column is written: shares as percentages, intervals as three figures (in CSV, three columns)."""


@dataclass(frozen=True)
class Column:
    """One column of a table; ``key`` names it in JSON and CSV, ``title`` in HTML."""

    key: str
    title: str
    kind: Kind = "text"
    digits: int = 1  # after the point; of the percentage, for shares
    signed: bool = False  # a plus before positive figures, for differences


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns. ``key`` is also the name of its CSV file."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def records(self) -> Iterator[dict[str, Cell]]:
        """Yield each row as column key -> cell."""
        for row in self.rows:
            yield dict(zip((column.key for column in self.columns), row, strict=True))


@dataclass(frozen=True)
class Figure:
    """A drawing and the same in words. ``svg`` is one element without scripts or references to elsewhere."""

    key: str
    title: str
    svg: str
    text: str  # says what the figure shows, for those who do not see it
    table: str | None = None  # key of the table that holds its figures


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of plain sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Remark:
    """A sentence that must not be overlooked."""

    text: str
    level: Literal["info", "warning"] = "warning"


@dataclass(frozen=True)
class Headline:
    """The figures that come first: a label, an estimate and what it means, a few of them."""

    items: Sequence[tuple[str, Cell, Kind, str]]


Block = Paragraph | Bullets | Remark | Headline | Table | Figure


@dataclass(frozen=True)
class Section:
    """A titled part of the report; ``key`` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    notice: str
    facts: Mapping[
        str, Any
    ]  # JSON values for machines: model, frame, settings, versions; nothing about single patients
    sections: Sequence[Section] = field(default_factory=tuple)

    def blocks(self, kind: type) -> Iterator[Any]:
        """Yield every block of one kind, in order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, kind))
