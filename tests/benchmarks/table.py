"""What the benchmarks share: medians with ranges, one table with the ratios first, one JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Median and range over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


def spread(values: Iterable[float]) -> Spread:
    """Return median and range of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared, and how it came out."""

    what: str  # "screening run / bare loop, records/s after start-up"
    ratio: Spread | None  # None: refused, and ``limit`` says why
    ours: str
    theirs: str
    limit: str  # what limits ours, or why there is no ratio
    aim: str = ""  # ">= 0.85"


@dataclass(frozen=True)
class Report:
    """What one benchmark found."""

    name: str
    rows: tuple[Row, ...]
    figures: dict[str, Any]  # everything measured, for JSON


def show(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people: ratio, range and aim first, then what was measured and what limits it."""
    head = ("ratio", "range", "aim", "what", "ours", "theirs", "limited by")
    cells = [
        (
            f"{row.ratio.median:.2f}" if row.ratio else "none",
            f"{row.ratio.low:.2f}-{row.ratio.high:.2f}" if row.ratio else "",
            row.aim,
            row.what,
            row.ours,
            row.theirs,
            row.limit,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    lines = (
        "  ".join(cell.rjust(width) if i < 3 else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths)))
        for line in (head, *cells)
    )
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,  # above 0.5 before the start: not quiet
        "versions": {name: version(name) for name in ("torch", "ray", "numpy", "scipy", "pyarrow", "wfdb")},
    }


def write_json(path: Path, reports: Sequence[Report], *, where: dict[str, Any]) -> None:
    """Write everything that was measured; ``where`` is `machine` as it was before the first measurement."""
    found = {"machine": where, "benchmarks": {report.name: asdict(report) for report in reports}}
    path.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
