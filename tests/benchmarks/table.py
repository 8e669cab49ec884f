"""What the benchmarks share: medians with ranges, one table with the ratios first, one JSON file."""

from __future__ import annotations

import json
import math
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
        if math.isnan(self.median):
            return "unknown"
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


def spread(values: Iterable[float]) -> Spread:
    """Return median and range of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared, and how it came out."""

    what: str  # "screening run / bare loop, records/s after start-up"
    ratio: Spread | None  # None: refused
    ours: str
    theirs: str
    limit: str  # what limits ours
    aim: str = ""  # ">= 0.85"
    refused: str | None = None  # why there is no ratio


@dataclass(frozen=True)
class Report:
    """What one benchmark found."""

    name: str
    rows: tuple[Row, ...]
    figures: dict[str, Any]  # everything measured, for JSON


def show(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people, ratios first; below each what was measured and what limits it."""
    lines = [f"{'ratio':>8}  {'range':<13}  {'aim':<7}  what"]
    for row in rows:
        ratio = f"{row.ratio.median:.2f}" if row.ratio else "none"
        span = f"{row.ratio.low:.2f}-{row.ratio.high:.2f}" if row.ratio else ""
        why = f"no ratio: {row.refused}" if row.refused else f"limited by {row.limit}"
        lines.append(f"{ratio:>8}  {span:<13}  {row.aim:<7}  {row.what}")
        lines += [f"{'':34}{part}" for part in (f"{row.ours}; against {row.theirs}", why)]
    return "\n".join(lines)


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
    # `asdict` cannot copy figures that hold a defaultdict.
    told = {r.name: {"name": r.name, "rows": [asdict(row) for row in r.rows], "figures": r.figures} for r in reports}
    found = {"machine": where, "benchmarks": told}
    strict = json.loads(json.dumps(found, default=str), parse_constant=lambda _: None)  # JSON knows no NaN
    path.write_text(json.dumps(strict, indent=1) + "\n", encoding="utf-8")
